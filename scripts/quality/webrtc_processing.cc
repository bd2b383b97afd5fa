// The sound processing of webrtc-audio-processing (Debian), all parts on, as a peer to measure by.
//
// g++ -O2 webrtc_processing.cc $(pkg-config --cflags --libs webrtc-audio-processing) -o webrtc_processing
// Standard input: 48 kHz, 32-bit floats, in turn one sample of the microphone and one of the
// loudspeaker. Standard output: what is sent, 32-bit floats.
#include <cstdio>
#include <vector>

#include <webrtc/modules/audio_processing/include/audio_processing.h>

int main() {
  const int kBlock = 480;
  webrtc::Config config;
  config.Set<webrtc::ExtendedFilter>(new webrtc::ExtendedFilter(true));
  config.Set<webrtc::DelayAgnostic>(new webrtc::DelayAgnostic(true));
  webrtc::AudioProcessing* processing = webrtc::AudioProcessing::Create(config);
  processing->high_pass_filter()->Enable(true);
  processing->echo_cancellation()->enable_drift_compensation(false);
  processing->echo_cancellation()->Enable(true);
  processing->noise_suppression()->Enable(true);
  processing->gain_control()->set_mode(webrtc::GainControl::kAdaptiveDigital);
  processing->gain_control()->Enable(true);
  const webrtc::StreamConfig stream(48000, 1, false);
  std::vector<float> pairs(2 * kBlock), near(kBlock), far(kBlock);
  while (std::fread(pairs.data(), sizeof(float), pairs.size(), stdin) == pairs.size()) {
    for (int i = 0; i < kBlock; ++i) {
      near[i] = pairs[2 * i];
      far[i] = pairs[2 * i + 1];
    }
    float* near_channel = near.data();
    float* far_channel = far.data();
    processing->ProcessReverseStream(&far_channel, stream, stream, &far_channel);
    processing->set_stream_delay_ms(0);
    processing->ProcessStream(&near_channel, stream, stream, &near_channel);
    if (std::fwrite(near.data(), sizeof(float), near.size(), stdout) != near.size()) return 1;
  }
  return 0;
}
