//! Mouth-to-ear delay, measured as the paper did (section IV.F, `adelay`): both signals on one
//! time line, cross-correlated by FFT in windows of 2 s, mean and standard deviation over the
//! windows with speech.
//!
//! * [`delay`]: the correlation.
//! * [`recording`]: from two recordings with time bases, or one stereo file, to two signals.
//! * [`picture`]: both waveforms and the delay of each window, PNG and SVG.

pub mod delay;
pub mod picture;
pub mod recording;

pub use delay::{CONFIDENCE_MIN, DelayReport, DelayWindow, measure};
pub use picture::draw;
pub use recording::Recording;
