//! Sound devices over PulseAudio's native protocol, spoken without any C library.
//!
//! * [`connection`]: socket, handshake, framing.
//! * [`slot`]: which device a stream wants and has: unplugging, fall-back, return.
//! * [`record`], [`playback`]: the two streams.
//! * [`session`]: both on one connection, on the audio thread.
//! * [`buffers`]: the smallest stable playback buffer.
//! * [`devices`]: what `cooee devices` lists.

mod buffers;
mod connection;
mod devices;
mod playback;
mod record;
mod session;
mod slot;
mod stream;

pub use devices::{Device, DeviceKind, list_devices};
pub(super) use session::PulseSession;
