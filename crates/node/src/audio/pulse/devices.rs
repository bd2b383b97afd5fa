//! The sound server's devices, for `cooee devices`.

use std::ffi::CStr;

use pulseaudio::protocol::{Command, ServerInfo, SinkInfo, SourceInfo};
use serde::Serialize;

use super::connection::Connection;
use crate::audio::AudioError;

/// Captures or plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A source.
    Microphone,
    /// What a speaker plays, as a microphone.
    Monitor,
    /// A sink.
    Speaker,
}

/// One device of the sound server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// What it does.
    pub kind: DeviceKind,
    /// For `device:NAME`.
    pub name: String,
    /// For people.
    pub description: String,
    /// Taken when `default` is asked for.
    pub is_default: bool,
}

/// Asks the sound server for its devices; blocks for at most some seconds.
pub fn list_devices() -> Result<Vec<Device>, AudioError> {
    let mut connection = Connection::open()?;
    let failed = |e: pulseaudio::protocol::ProtocolError| AudioError::SoundServer {
        path: pulseaudio::socket_path_from_env().unwrap_or_default(),
        reason: e.to_string(),
    };
    let server: ServerInfo = connection.ask(Command::GetServerInfo).map_err(failed)?;
    let sources: Vec<SourceInfo> = connection.ask(Command::GetSourceInfoList).map_err(failed)?;
    let sinks: Vec<SinkInfo> = connection.ask(Command::GetSinkInfoList).map_err(failed)?;
    let mut devices: Vec<Device> = sources
        .iter()
        .map(|source| Device {
            kind: match source.monitor_of_sink_index {
                Some(_) => DeviceKind::Monitor,
                None => DeviceKind::Microphone,
            },
            name: text(&source.name),
            description: source.description.as_deref().map(text).unwrap_or_default(),
            is_default: server.default_source_name.as_ref() == Some(&source.name),
        })
        .collect();
    devices.extend(sinks.iter().map(|sink| Device {
        kind: DeviceKind::Speaker,
        name: text(&sink.name),
        description: sink.description.as_deref().map(text).unwrap_or_default(),
        is_default: server.default_sink_name.as_ref() == Some(&sink.name),
    }));
    Ok(devices)
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
