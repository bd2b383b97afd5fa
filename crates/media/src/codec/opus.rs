//! Safe owner types around libopus: the one file of this crate where `unsafe` is allowed.
//!
//! Proof kept for every block: a pointer comes from the matching `…_create`/`…_alloc`, is checked
//! for null once, is owned by exactly one value and is freed in its `Drop`; slices are passed with
//! their own lengths; libopus keeps no pointer to a buffer after a call returns, and keeps no
//! global mutable state (its tables are constant), so an owner may move between threads (`Send`)
//! but is never shared (`!Sync` by the raw pointer, and all calls take `&mut self`).
#![allow(unsafe_code)]

use core::ptr::NonNull;

use opusic_sys as sys;

use super::{Application, Bandwidth, CodecError, FRAME_SAMPLES_MAX, FRAME_SAMPLES_MIN};

const RATE_HZ: i32 = super::SAMPLE_RATE_HZ as i32;

fn check(code: i32) -> Result<usize, CodecError> {
    match code {
        0.. => Ok(code as usize),
        sys::OPUS_INVALID_PACKET => Err(CodecError::Malformed),
        sys::OPUS_BAD_ARG | sys::OPUS_BUFFER_TOO_SMALL | sys::OPUS_UNIMPLEMENTED => {
            Err(CodecError::Misuse)
        }
        other => Err(CodecError::Internal(other)),
    }
}

fn created<T>(raw: *mut T, code: i32) -> Result<NonNull<T>, CodecError> {
    check(code)?;
    NonNull::new(raw).ok_or(CodecError::Internal(sys::OPUS_ALLOC_FAIL))
}

/// Length of a slice as libopus takes it; slices here are far below 2 GiB.
fn length(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

/// One direction's Opus encoder, 48 kHz mono.
pub struct OpusEncoder {
    raw: NonNull<sys::OpusEncoder>,
}

// SAFETY: see the head of the file; the owner is unique and libopus has no thread affinity.
unsafe impl Send for OpusEncoder {}

impl OpusEncoder {
    /// A new encoder. Allocates; do it outside the audio path.
    ///
    /// # Errors
    /// [`CodecError::Internal`] when memory is out.
    pub fn new(application: Application) -> Result<Self, CodecError> {
        let application = match application {
            Application::LowDelay => sys::OPUS_APPLICATION_RESTRICTED_LOWDELAY,
            Application::Voip => sys::OPUS_APPLICATION_VOIP,
            Application::Audio => sys::OPUS_APPLICATION_AUDIO,
        };
        let mut code = 0;
        // SAFETY: `code` outlives the call; the result is checked before use.
        let raw = unsafe { sys::opus_encoder_create(RATE_HZ, 1, application, &mut code) };
        Ok(Self { raw: created(raw, code)? })
    }

    fn set(&mut self, request: i32, value: i32) -> Result<(), CodecError> {
        // SAFETY: every request passed by this file is a setter that takes one `opus_int32`.
        check(unsafe { sys::opus_encoder_ctl(self.raw.as_ptr(), request, value) }).map(drop)
    }

    /// Sets the bit rate of the whole payload, in bit/s.
    pub fn set_bit_rate(&mut self, bits_per_s: u32) -> Result<(), CodecError> {
        let value = i32::try_from(bits_per_s).map_err(|_| CodecError::Misuse)?;
        self.set(sys::OPUS_SET_BITRATE_REQUEST, value)
    }

    /// Constant bit rate when `false`: every packet has the same size and leaks nothing of speech.
    pub fn set_variable_bit_rate(&mut self, variable: bool) -> Result<(), CodecError> {
        self.set(sys::OPUS_SET_VBR_REQUEST, i32::from(variable))
    }

    /// Effort from 0 to 10.
    pub fn set_complexity(&mut self, complexity: u8) -> Result<(), CodecError> {
        self.set(sys::OPUS_SET_COMPLEXITY_REQUEST, i32::from(complexity))
    }

    /// Fixes the coded bandwidth; `None` lets the encoder choose.
    pub fn set_bandwidth(&mut self, bandwidth: Option<Bandwidth>) -> Result<(), CodecError> {
        let value = match bandwidth {
            None => sys::OPUS_AUTO,
            Some(Bandwidth::Narrow) => sys::OPUS_BANDWIDTH_NARROWBAND,
            Some(Bandwidth::Medium) => sys::OPUS_BANDWIDTH_MEDIUMBAND,
            Some(Bandwidth::Wide) => sys::OPUS_BANDWIDTH_WIDEBAND,
            Some(Bandwidth::SuperWide) => sys::OPUS_BANDWIDTH_SUPERWIDEBAND,
            Some(Bandwidth::Full) => sys::OPUS_BANDWIDTH_FULLBAND,
        };
        self.set(sys::OPUS_SET_BANDWIDTH_REQUEST, value)
    }

    /// Tells the encoder that it codes speech (biases its mode choice).
    pub fn set_voice(&mut self, voice: bool) -> Result<(), CodecError> {
        let value = if voice { sys::OPUS_SIGNAL_VOICE } else { sys::OPUS_AUTO };
        self.set(sys::OPUS_SET_SIGNAL_REQUEST, value)
    }

    /// Expected loss in percent, 0 to 100: more makes frames depend less on each other.
    pub fn set_expected_loss(&mut self, percent: u8) -> Result<(), CodecError> {
        self.set(sys::OPUS_SET_PACKET_LOSS_PERC_REQUEST, i32::from(percent.min(100)))
    }

    /// In-band low bit-rate redundancy (LBRR, RFC 6716 section 2.1.7).
    pub fn set_in_band_redundancy(&mut self, on: bool) -> Result<(), CodecError> {
        self.set(sys::OPUS_SET_INBAND_FEC_REQUEST, i32::from(on))
    }

    /// Deep redundancy (DRED) for the last `duration_10ms` × 10 ms; 0 turns it off, 104 is the
    /// most.
    pub fn set_deep_redundancy(&mut self, duration_10ms: u8) -> Result<(), CodecError> {
        self.set(sys::OPUS_SET_DRED_DURATION_REQUEST, i32::from(duration_10ms.min(104)))
    }

    /// Removes (when `true`) prediction between frames: loss no longer spreads, quality falls.
    pub fn set_prediction_disabled(&mut self, disabled: bool) -> Result<(), CodecError> {
        self.set(sys::OPUS_SET_PREDICTION_DISABLED_REQUEST, i32::from(disabled))
    }

    /// Samples by which the decoded sound lags the input, encoder and decoder together.
    pub fn look_ahead_samples(&mut self) -> Result<usize, CodecError> {
        let mut value: i32 = 0;
        // SAFETY: this getter writes one `opus_int32` through a pointer that outlives the call.
        let code = unsafe {
            sys::opus_encoder_ctl(
                self.raw.as_ptr(),
                sys::OPUS_GET_LOOKAHEAD_REQUEST,
                &raw mut value,
            )
        };
        check(code)?;
        Ok(usize::try_from(value).unwrap_or(0))
    }

    /// Forgets everything heard so far; settings stay.
    pub fn reset(&mut self) -> Result<(), CodecError> {
        // SAFETY: this request takes no argument.
        check(unsafe { sys::opus_encoder_ctl(self.raw.as_ptr(), sys::OPUS_RESET_STATE) }).map(drop)
    }

    /// Encodes one frame (2.5 to 120 ms) into `payload`; returns the bytes used.
    ///
    /// # Errors
    /// [`CodecError::Misuse`] when `sound` is not a frame long or `payload` is too small.
    pub fn encode(&mut self, sound: &[f32], payload: &mut [u8]) -> Result<usize, CodecError> {
        if super::FrameDuration::from_samples(sound.len()).is_none() || payload.is_empty() {
            return Err(CodecError::Misuse);
        }
        // SAFETY: both slices outlive the call and are passed with their own lengths (mono, so
        // samples per channel = length); libopus checks the frame length.
        check(unsafe {
            sys::opus_encode_float(
                self.raw.as_ptr(),
                sound.as_ptr(),
                length(sound.len()),
                payload.as_mut_ptr(),
                length(payload.len()),
            )
        })
    }
}

impl Drop for OpusEncoder {
    fn drop(&mut self) {
        // SAFETY: created by `opus_encoder_create`, owned here, freed once.
        unsafe { sys::opus_encoder_destroy(self.raw.as_ptr()) }
    }
}

/// One direction's Opus decoder, 48 kHz mono.
pub struct OpusDecoder {
    raw: NonNull<sys::OpusDecoder>,
}

// SAFETY: see the head of the file; the owner is unique and libopus has no thread affinity.
unsafe impl Send for OpusDecoder {}

impl OpusDecoder {
    /// A new decoder. Allocates; do it outside the audio path.
    ///
    /// # Errors
    /// [`CodecError::Internal`] when memory is out.
    pub fn new() -> Result<Self, CodecError> {
        let mut code = 0;
        // SAFETY: `code` outlives the call; the result is checked before use.
        let raw = unsafe { sys::opus_decoder_create(RATE_HZ, 1, &mut code) };
        Ok(Self { raw: created(raw, code)? })
    }

    fn set(&mut self, request: i32, value: i32) -> Result<(), CodecError> {
        // SAFETY: every request passed by this file is a setter that takes one `opus_int32`.
        check(unsafe { sys::opus_decoder_ctl(self.raw.as_ptr(), request, value) }).map(drop)
    }

    /// Effort from 0 to 10: 5 and up conceals with the neural network, 6 and 7 enhance speech.
    pub fn set_complexity(&mut self, complexity: u8) -> Result<(), CodecError> {
        self.set(sys::OPUS_SET_COMPLEXITY_REQUEST, i32::from(complexity))
    }

    /// Blind bandwidth extension of wideband speech to 20 kHz (needs complexity 4 or more).
    pub fn set_bandwidth_extension(&mut self, on: bool) -> Result<(), CodecError> {
        self.set(sys::OPUS_SET_OSCE_BWE_REQUEST, i32::from(on))
    }

    /// Forgets everything heard so far; settings stay.
    pub fn reset(&mut self) -> Result<(), CodecError> {
        // SAFETY: this request takes no argument.
        check(unsafe { sys::opus_decoder_ctl(self.raw.as_ptr(), sys::OPUS_RESET_STATE) }).map(drop)
    }

    /// Decodes a packet into `sound`; returns the samples written.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] for bytes that are no Opus packet.
    pub fn decode(&mut self, payload: &[u8], sound: &mut [f32]) -> Result<usize, CodecError> {
        if payload.is_empty() {
            return Err(CodecError::Malformed);
        }
        let frame = sound.len().min(FRAME_SAMPLES_MAX);
        self.decode_raw(Some(payload), &mut sound[..frame], false)
    }

    /// Decodes the in-band redundancy that `next_payload` carries for the frame before it.
    ///
    /// # Errors
    /// [`CodecError::Misuse`] when `sound` is not a multiple of 2.5 ms.
    pub fn decode_in_band_redundancy(
        &mut self,
        next_payload: &[u8],
        sound: &mut [f32],
    ) -> Result<usize, CodecError> {
        if next_payload.is_empty() {
            return Err(CodecError::Malformed);
        }
        self.decode_raw(Some(next_payload), sound, true)
    }

    /// Fills `sound` (a multiple of 2.5 ms) with what probably was said.
    ///
    /// # Errors
    /// [`CodecError::Misuse`] when the length is wrong.
    pub fn conceal(&mut self, sound: &mut [f32]) -> Result<usize, CodecError> {
        self.decode_raw(None, sound, false)
    }

    /// Fills `sound` from deep redundancy, `offset_samples` before the packet it came with.
    ///
    /// # Errors
    /// [`CodecError::Misuse`] when the length is wrong.
    pub fn decode_deep_redundancy(
        &mut self,
        deep: &DredState,
        offset_samples: usize,
        sound: &mut [f32],
    ) -> Result<usize, CodecError> {
        if !sound.len().is_multiple_of(FRAME_SAMPLES_MIN) {
            return Err(CodecError::Misuse);
        }
        // SAFETY: both states are live and unique owners; `sound` is passed with its length.
        check(unsafe {
            sys::opus_decoder_dred_decode_float(
                self.raw.as_ptr(),
                deep.state.as_ptr(),
                length(offset_samples),
                sound.as_mut_ptr(),
                length(sound.len()),
            )
        })
    }

    fn decode_raw(
        &mut self,
        payload: Option<&[u8]>,
        sound: &mut [f32],
        redundancy: bool,
    ) -> Result<usize, CodecError> {
        if (payload.is_none() || redundancy) && !sound.len().is_multiple_of(FRAME_SAMPLES_MIN) {
            return Err(CodecError::Misuse);
        }
        let (pointer, bytes) =
            payload.map_or((core::ptr::null(), 0), |p| (p.as_ptr(), length(p.len())));
        // SAFETY: `payload` is null with length 0 (which libopus documents as "lost") or a live
        // slice with its own length; `sound` is passed with its own length (mono).
        check(unsafe {
            sys::opus_decode_float(
                self.raw.as_ptr(),
                pointer,
                bytes,
                sound.as_mut_ptr(),
                length(sound.len()),
                i32::from(redundancy),
            )
        })
    }
}

impl Drop for OpusDecoder {
    fn drop(&mut self) {
        // SAFETY: created by `opus_decoder_create`, owned here, freed once.
        unsafe { sys::opus_decoder_destroy(self.raw.as_ptr()) }
    }
}

/// The deep redundancy (DRED) of one packet, and the network that unfolds it.
pub struct DredState {
    network: NonNull<sys::OpusDREDDecoder>,
    state: NonNull<sys::OpusDRED>,
}

// SAFETY: see the head of the file; both parts are owned by this value alone.
unsafe impl Send for DredState {}

impl DredState {
    /// An empty state. Allocates; do it outside the audio path.
    ///
    /// # Errors
    /// [`CodecError::Internal`] when memory is out.
    pub fn new() -> Result<Self, CodecError> {
        let mut code = 0;
        // SAFETY: `code` outlives both calls; results are checked before use. When the second
        // fails the first is freed below, before it could be lost.
        let network = created(unsafe { sys::opus_dred_decoder_create(&mut code) }, code)?;
        let mut code = 0;
        // SAFETY: as above.
        match created(unsafe { sys::opus_dred_alloc(&mut code) }, code) {
            Ok(state) => Ok(Self { network, state }),
            Err(error) => {
                // SAFETY: created above, not stored anywhere else.
                unsafe { sys::opus_dred_decoder_destroy(network.as_ptr()) };
                Err(error)
            }
        }
    }

    /// Reads the redundancy of `payload`; returns how many samples before it are covered (0: none).
    ///
    /// # Errors
    /// [`CodecError::Malformed`] for bytes that are no Opus packet.
    pub fn parse(&mut self, payload: &[u8], samples_max: usize) -> Result<usize, CodecError> {
        if payload.is_empty() {
            return Err(CodecError::Malformed);
        }
        let mut end = 0;
        // SAFETY: both states are live; `payload` is passed with its length; `end` outlives it.
        check(unsafe {
            sys::opus_dred_parse(
                self.network.as_ptr(),
                self.state.as_ptr(),
                payload.as_ptr(),
                length(payload.len()),
                length(samples_max),
                RATE_HZ,
                &mut end,
                0,
            )
        })
    }
}

impl Drop for DredState {
    fn drop(&mut self) {
        // SAFETY: created by the matching calls in `new`, owned here, freed once.
        unsafe {
            sys::opus_dred_free(self.state.as_ptr());
            sys::opus_dred_decoder_destroy(self.network.as_ptr());
        }
    }
}

/// Samples that `payload` decodes to, without decoding it.
///
/// # Errors
/// [`CodecError::Malformed`] for bytes that are no Opus packet of at most 120 ms.
pub fn packet_samples(payload: &[u8]) -> Result<usize, CodecError> {
    if payload.is_empty() {
        return Err(CodecError::Malformed);
    }
    // SAFETY: the slice is not empty and passed with its own length; libopus reads at most that.
    let samples = check(unsafe {
        sys::opus_packet_get_nb_samples(payload.as_ptr(), length(payload.len()), RATE_HZ)
    })?;
    if samples == 0 || samples > FRAME_SAMPLES_MAX {
        return Err(CodecError::Malformed);
    }
    Ok(samples)
}

/// Whether `payload` carries in-band redundancy for the frame before it.
pub fn has_in_band_redundancy(payload: &[u8]) -> bool {
    if packet_samples(payload).is_err() {
        return false;
    }
    // SAFETY: `packet_samples` proved that the slice is a non-empty well-formed packet.
    unsafe { sys::opus_packet_has_lbrr(payload.as_ptr(), length(payload.len())) == 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(samples: usize) -> Vec<f32> {
        (0..samples).map(|i| (i as f32 * 0.05).sin() * 0.3).collect()
    }

    #[test]
    fn low_delay_looks_ahead_two_and_a_half_milliseconds_and_voip_six_and_a_half() {
        let mut low = OpusEncoder::new(Application::LowDelay).unwrap();
        let mut voip = OpusEncoder::new(Application::Voip).unwrap();
        assert_eq!(low.look_ahead_samples(), Ok(120));
        assert_eq!(voip.look_ahead_samples(), Ok(312));
    }

    #[test]
    fn a_tone_survives_the_codec_at_every_frame_length() {
        for duration in super::super::FrameDuration::ALL {
            let mut encoder = OpusEncoder::new(Application::LowDelay).unwrap();
            encoder.set_bit_rate(64_000).unwrap();
            let mut decoder = OpusDecoder::new().unwrap();
            let sound = tone(duration.samples());
            let (mut payload, mut heard) = ([0; 1_275], vec![0.0; FRAME_SAMPLES_MAX]);
            let mut energy = 0.0;
            for _ in 0..20 {
                let bytes = encoder.encode(&sound, &mut payload).unwrap();
                assert_eq!(packet_samples(&payload[..bytes]), Ok(duration.samples()));
                let samples = decoder.decode(&payload[..bytes], &mut heard).unwrap();
                assert_eq!(samples, duration.samples());
                energy = heard[..samples].iter().map(|s| s * s).sum::<f32>() / samples as f32;
            }
            assert!((0.02..0.09).contains(&energy), "{duration:?}: {energy}");
        }
    }

    #[test]
    fn constant_bit_rate_gives_packets_of_one_size() {
        let mut encoder = OpusEncoder::new(Application::Voip).unwrap();
        encoder.set_bit_rate(16_000).unwrap();
        encoder.set_variable_bit_rate(false).unwrap();
        let mut payload = [0; 1_275];
        let quiet = encoder.encode(&[0.0; 960], &mut payload).unwrap();
        let loud = encoder.encode(&tone(960), &mut payload).unwrap();
        assert_eq!((quiet, loud), (40, 40));
    }

    #[test]
    fn damaged_bytes_are_refused_or_decoded_but_never_panic() {
        let mut decoder = OpusDecoder::new().unwrap();
        let mut sound = vec![0.0; FRAME_SAMPLES_MAX];
        for first in 0..=255_u8 {
            for rest in [&[][..], &[0xff; 3], &[0; 40]] {
                let mut payload = vec![first];
                payload.extend_from_slice(rest);
                let _ = packet_samples(&payload);
                let _ = has_in_band_redundancy(&payload);
                let _ = decoder.decode(&payload, &mut sound);
            }
        }
        assert_eq!(decoder.decode(&[], &mut sound), Err(CodecError::Malformed));
    }

    #[test]
    fn deep_redundancy_covers_what_came_before_its_packet() {
        let mut encoder = OpusEncoder::new(Application::Voip).unwrap();
        encoder.set_bit_rate(32_000).unwrap();
        encoder.set_expected_loss(20).unwrap();
        encoder.set_deep_redundancy(50).unwrap();
        let mut deep = DredState::new().unwrap();
        let mut payload = [0; 1_275];
        let mut covered = 0;
        for _ in 0..50 {
            let bytes = encoder.encode(&tone(960), &mut payload).unwrap();
            covered = deep.parse(&payload[..bytes], 48_000).unwrap();
        }
        assert!(covered >= 4_800, "{covered} samples");
        let mut sound = [0.0; 960];
        let mut decoder = OpusDecoder::new().unwrap();
        assert_eq!(decoder.decode_deep_redundancy(&deep, 960, &mut sound), Ok(960));
    }
}
