#!/usr/bin/env python3
"""How unique the delay of a window of real speech is: what UNIQUENESS_MIN of lab::measure rests on.

usage: uniqueness.py

For windows of 2 s, every 0.5 s, of each voice of conversation.py: the height of the highest peak of
the correlation with what was heard over that of the highest 1 ms and more away, as
crates/lab/src/measure/delay.rs computes it. Heard is the voice itself after 50 ms, clean and with
noise as loud as the voice and louder; wrong lags are counted.
"""
import os
import re

import numpy

from conversation import RATE, SENTENCES, sentence
from voice_quality import ROOT


def constant(name):
    path = os.path.join(ROOT, "crates/lab/src/measure/delay.rs")
    with open(path) as file:
        value = re.search(rf"const {name}: [^=]+= ([^;]+);", file.read())[1]
    return eval(value.replace("_", ""))


WINDOW = int(constant("WINDOW_SECONDS") * RATE)
LAGS = int(constant("DELAY_SECONDS_MAX") * RATE)
BAND = constant("BAND_HZ")
PEAK = int(constant("PEAK_SECONDS") * RATE)
LEAST = constant("UNIQUENESS_MIN")
DELAY = RATE // 20


def judge(mouth, ear):
    """Uniqueness and lag of one window."""
    size = 1 << (2 * WINDOW + LAGS).bit_length()
    a, b = numpy.fft.rfft(mouth, size), numpy.fft.rfft(ear, size)
    product = b * a.conj()
    band = slice(int(BAND[0] / RATE * size), int(BAND[1] / RATE * size))
    plain, white = numpy.zeros_like(product), numpy.zeros_like(product)
    plain[band] = product[band]
    white[band] = product[band] / numpy.maximum(numpy.sqrt(abs(product[band])), 1e-12)
    best = int(numpy.fft.irfft(white)[:LAGS].argmax())
    cross = numpy.fft.irfft(plain)[:LAGS]
    near = numpy.zeros(LAGS, bool)
    near[max(best - PEAK, 0) : best + PEAK + 1] = True
    return cross[near].max() / max(cross[~near].max(), 1e-30), best


def main():
    draw = numpy.random.default_rng(1)
    for noise_db in (None, 0, -6, -12):
        right, wrong = [], []
        for _, _, path in SENTENCES:
            voice = sentence(path)
            ear = numpy.concatenate([numpy.zeros(DELAY), voice, numpy.zeros(LAGS + WINDOW)])
            if noise_db is not None:
                loud = numpy.sqrt(numpy.mean(voice**2)) * 10 ** (-noise_db / 20)
                ear = ear + draw.normal(0, loud, len(ear))
            for start in range(0, len(voice) - WINDOW, RATE // 2):
                mouth = voice[start : start + WINDOW]
                value, lag = judge(mouth, ear[start : start + WINDOW + LAGS])
                (right if abs(lag - DELAY) < RATE // 1_000 else wrong).append(value)
        name = "clean" if noise_db is None else f"{noise_db} dB of noise"
        low = numpy.percentile(right, [0, 1, 50]) if right else [0, 0, 0]
        print(
            f"{name}: {len(right)} windows right, uniqueness least {low[0]:.2f}, 1 % {low[1]:.2f}, "
            f"median {low[2]:.2f}, below {LEAST}: {sum(v < LEAST for v in right)}; {len(wrong)} wrong"
            + (f", highest {max(wrong):.2f}" if wrong else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
