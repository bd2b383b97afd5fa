//! What a user writes to choose a microphone and a speaker.
//!
//! ```text
//! microphone = default | device:NAME | wav:PATH[,loop] | tone:HZ[,dBFS] | silence
//! speaker    = default | device:NAME | wav:PATH | null
//! ```

use std::{fmt, path::PathBuf, str::FromStr};

/// Level of a tone when none is given, dB below full scale (chosen: loud, no clipping).
const TONE_LEVEL_DBFS: f32 = -18.0;

/// Where captured sound comes from.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum MicrophoneSpec {
    /// The sound server's default source.
    #[default]
    Default,
    /// A named source of the sound server.
    Device(String),
    /// A WAV file of any rate and channel count, played in real time.
    Wav {
        /// The file.
        path: PathBuf,
        /// Start again at its end; otherwise silence follows.
        repeat: bool,
    },
    /// A sine.
    Tone {
        /// Frequency in Hz, below 24,000.
        hz: f32,
        /// Level of the sine's peak, dB below full scale, at most 0.
        level_dbfs: f32,
    },
    /// Digital silence.
    Silence,
}

/// Where played sound goes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum SpeakerSpec {
    /// The sound server's default sink.
    #[default]
    Default,
    /// A named sink of the sound server.
    Device(String),
    /// Recorded to a WAV file (48 kHz, 16 bit, mono) with a time-base file beside it.
    Wav {
        /// The file, overwritten.
        path: PathBuf,
    },
    /// Played in real time to nobody.
    Null,
}

/// A microphone or speaker that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no {what}: write {expected}")]
pub struct SpecError {
    what: &'static str,
    given: String,
    expected: &'static str,
}

impl MicrophoneSpec {
    /// Whether a sound server is needed.
    pub fn is_device(&self) -> bool {
        matches!(self, Self::Default | Self::Device(_))
    }
}

impl SpeakerSpec {
    /// Whether a sound server is needed.
    pub fn is_device(&self) -> bool {
        matches!(self, Self::Default | Self::Device(_))
    }
}

impl FromStr for MicrophoneSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let error = || SpecError {
            what: "microphone",
            given: text.to_owned(),
            expected: "default, device:NAME, wav:PATH[,loop], tone:HZ[,dBFS] or silence",
        };
        match text.split_once(':') {
            None if text == "default" => Ok(Self::Default),
            None if text == "silence" => Ok(Self::Silence),
            Some(("device", name)) if !name.is_empty() => Ok(Self::Device(name.to_owned())),
            Some(("wav", path)) if !path.is_empty() && path != ",loop" => {
                let (path, repeat) =
                    path.strip_suffix(",loop").map_or((path, false), |path| (path, true));
                Ok(Self::Wav { path: path.into(), repeat })
            }
            Some(("tone", tone)) => {
                let (hz, level) = tone.split_once(',').map_or((tone, None), |(h, l)| (h, Some(l)));
                let hz: f32 = hz.parse().map_err(|_| error())?;
                let level_dbfs =
                    level.map_or(Ok(TONE_LEVEL_DBFS), str::parse).map_err(|_| error())?;
                let valid = hz > 0.0 && hz < 24_000.0 && (-120.0..=0.0).contains(&level_dbfs);
                valid.then_some(Self::Tone { hz, level_dbfs }).ok_or_else(error)
            }
            _ => Err(error()),
        }
    }
}

impl FromStr for SpeakerSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.split_once(':') {
            None if text == "default" => Ok(Self::Default),
            None if text == "null" => Ok(Self::Null),
            Some(("device", name)) if !name.is_empty() => Ok(Self::Device(name.to_owned())),
            Some(("wav", path)) if !path.is_empty() => Ok(Self::Wav { path: path.into() }),
            _ => Err(SpecError {
                what: "speaker",
                given: text.to_owned(),
                expected: "default, device:NAME, wav:PATH or null",
            }),
        }
    }
}

impl fmt::Display for MicrophoneSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Device(name) => write!(f, "device:{name}"),
            Self::Wav { path, repeat } => {
                write!(f, "wav:{}{}", path.display(), if *repeat { ",loop" } else { "" })
            }
            Self::Tone { hz, level_dbfs } => write!(f, "tone:{hz},{level_dbfs}"),
            Self::Silence => f.write_str("silence"),
        }
    }
}

impl fmt::Display for SpeakerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Device(name) => write!(f, "device:{name}"),
            Self::Wav { path } => write!(f, "wav:{}", path.display()),
            Self::Null => f.write_str("null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_prints_back_and_parses_again() {
        for text in ["default", "device:alsa_input.usb", "wav:/tmp/a,b.wav,loop", "wav:a.wav"] {
            let spec: MicrophoneSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
        }
        for text in ["default", "device:x", "wav:out.wav", "null"] {
            assert_eq!(text.parse::<SpeakerSpec>().unwrap().to_string(), text);
        }
        let tone: MicrophoneSpec = "tone:440".parse().unwrap();
        assert_eq!(tone, MicrophoneSpec::Tone { hz: 440.0, level_dbfs: -18.0 });
        assert_eq!(tone.to_string().parse(), Ok(tone));
        assert_eq!(
            "tone:1000.5,-30".parse(),
            Ok(MicrophoneSpec::Tone { hz: 1000.5, level_dbfs: -30.0 })
        );
    }

    #[test]
    fn nonsense_is_refused_with_what_to_write_instead() {
        for text in [
            "",
            "wav:",
            "wav:,loop",
            "tone:",
            "tone:-3",
            "tone:24000",
            "tone:nan",
            "tone:440,6",
            "tone:440,x",
            "device:",
            "Default",
            "mic",
        ] {
            let error = text.parse::<MicrophoneSpec>().expect_err(text);
            assert!(error.to_string().contains("tone:HZ"), "{error}");
        }
        for text in ["", "silence", "wav:", "device:", "tone:440"] {
            assert!(text.parse::<SpeakerSpec>().is_err(), "{text}");
        }
    }
}
