#!/usr/bin/env python3
"""Scores recordings of `cooee lab voice`, one after the other, as long as it is asked to.

usage: score.py CONVERSATION_FOLDER < jobs > scores

Each line of standard input is a recording: raw, 48 kHz, 16 bit, four channels as conversation.py
describes. Each line of standard output is JSON: for every sentence PESQ (ITU-T P.862.2), ViSQOL
(speech mode) and PLCMOS, all at 16 kHz, and the lag in samples that was taken out before.
"""
import json
import os
import sys

import numpy
from scipy.signal import correlate, resample_poly

LAG_MAX_S = 2.5
MARGIN_S = 0.25

_visqol = None


def offset_of(spoken, recording):
    """Where in the recording the conversation starts, in samples."""
    small = 16
    cut = lambda x: resample_poly(x.astype(numpy.float32), 1, small)
    heard, said = recording[:, 0], spoken[:, 0]
    lags = correlate(cut(heard), cut(said), "full", method="fft")
    coarse = (int(numpy.argmax(lags)) - (len(said) + small - 1) // small + 1) * small
    begin = max(coarse, 0) + 48_000
    piece = said[begin - coarse : begin - coarse + 96_000].astype(numpy.float32)
    window = heard[begin - 100 : begin + len(piece) + 100].astype(numpy.float32)
    return coarse - 100 + int(numpy.argmax(correlate(window, piece, "valid", method="fft")))


def visqol(reference, heard):
    global _visqol
    if _visqol is None:
        from visqol import VisqolApi

        _visqol = VisqolApi()
        _visqol.create(mode="speech")
    return float(_visqol.measure_from_arrays(reference, heard, 16_000).moslqo)


def plcmos(heard):
    from speechmos import plcmos as scorer

    return float(scorer.run(numpy.clip(heard, -1, 1), sr=16_000)["plcmos"])


def pesq(reference, heard):
    from pesq import PesqError, pesq as scorer

    try:
        return float(scorer(16_000, reference, heard, "wb"))
    except PesqError:  # no utterance found: nothing intelligible came through
        return 1.0


def score(plan, sentence, offset, recording):
    rate, channel = plan["rate"], sentence["channel"]
    margin, lag_max = int(MARGIN_S * rate), int(LAG_MAX_S * rate)
    start = offset + sentence["start"] - margin
    length = sentence["samples"] + 2 * margin
    mouth = recording[start : start + length, channel].astype(numpy.float32) / 32_768
    ear = recording[start : start + length + lag_max, channel + 1].astype(numpy.float32) / 32_768
    if len(ear) < length + 1 or not numpy.any(ear):
        return {"voice": sentence["voice"], "pesq": 1.0, "visqol": 1.0, "plcmos": 1.0, "lag": None}
    lag = int(numpy.argmax(correlate(ear, mouth, "valid", method="fft")))
    heard = ear[lag : lag + length]
    mouth, heard = (resample_poly(x, 1, 3).astype(numpy.float32) for x in (mouth, heard))
    n = min(len(mouth), len(heard))
    mouth, heard = mouth[:n], heard[:n]
    return {
        "voice": sentence["voice"],
        "lag": lag,
        "pesq": pesq(mouth, heard),
        "visqol": visqol(mouth, heard),
        "plcmos": plcmos(heard),
    }


def main():
    folder = sys.argv[1]
    with open(os.path.join(folder, "conversation.json")) as file:
        plan = json.load(file)
    raw = lambda path: numpy.fromfile(path, "<i2")
    spoken = raw(os.path.join(folder, "conversation.raw")).reshape(-1, 4)
    # Libraries print to standard output; only the results may.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            samples = raw(line.strip())
            recording = samples[: len(samples) // 4 * 4].reshape(-1, 4)
            offset = offset_of(spoken, recording)
            scores = [score(plan, s, offset, recording) for s in plan["sentences"]]
            answer = {"offset": offset, "sentences": scores}
        except Exception as problem:  # one bad recording must not end the rest
            answer = {"error": str(problem)}
        print(json.dumps(answer), file=results, flush=True)


if __name__ == "__main__":
    main()
