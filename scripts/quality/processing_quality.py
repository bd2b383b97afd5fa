#!/usr/bin/env python3
"""What sound processing does to clean speech: PESQ and delay of each of its parts.

usage: processing_quality.py [--bench PATH] [PARTS ...]

PARTS are those of examples/processing_bench.rs: off, or echo,noise,gain in any choice. Each voice of
conversation.py is spoken twice and the second time scored (PESQ, ITU-T P.862.2). Needs what
requirements.txt lists.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

from conversation import SENTENCES, sentence
from voice_quality import ROOT, pesq_wideband

BENCH = os.path.join(ROOT, "target/release/examples/processing_bench")
PARTS = ["off", "echo", "noise", "gain", "echo,noise,gain"]
RATE = 48_000


def lag_ms(spoken, heard):
    from scipy.signal import correlate

    lags = correlate(heard, spoken, "full", method="fft")
    return (int(lags.argmax()) - len(spoken) + 1) * 1_000 / RATE


def score(bench, parts, spoken):
    import numpy
    import soundfile

    silence = numpy.zeros(RATE // 2)
    once = numpy.concatenate([silence, spoken, silence])
    once = once[: len(once) // 480 * 480]
    with tempfile.TemporaryDirectory() as folder:
        near, out = os.path.join(folder, "near.wav"), os.path.join(folder, "out.wav")
        soundfile.write(near, numpy.concatenate([once, once]), RATE, subtype="PCM_16")
        command = [bench, near, "-", "-", out, parts]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        heard, _ = soundfile.read(out)
    heard = heard[len(once) :]
    return pesq_wideband(once, heard), lag_ms(once, heard), json.loads(done.stdout)["median_us"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", default=BENCH)
    parser.add_argument("parts", nargs="*", default=PARTS)
    options = parser.parse_args()
    voices = [sentence(path) for _, _, path in SENTENCES]
    for parts in options.parts:
        scores, lags, times = zip(*(score(options.bench, parts, voice) for voice in voices))
        print(
            f"{parts:16} PESQ {statistics.median(scores):.2f} (least {min(scores):.2f}), "
            f"delay {statistics.median(lags):.1f} ms, "
            f"{statistics.median(times):.0f} us for a block of 10 ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
