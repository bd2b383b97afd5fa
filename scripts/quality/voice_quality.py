#!/usr/bin/env python3
"""Scores the voice engine: runs examples/voice_bench over speech files and conditions.

usage: voice_quality.py --speech DIR [--bench PATH] [--seeds N] [--jobs N] [--visqol] [--plcmos]
                        [--out DIR] [--set NAME | NAME=key=value,key=value ...]

Prints one line per condition: the median over all voices and seeds of PESQ (ITU-T P.862.2,
wideband), with the 10th and 90th percentile, and what the engine counted. Needs `pesq`, `scipy`,
`soundfile` and, for the options, `visqol-python[lattice]` and `speechmos`.
"""
import argparse
import glob
import json
import os
import statistics
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BENCH = os.path.join(ROOT, "target/debug/examples/voice_bench")


def load(path):
    import soundfile

    return soundfile.read(path)


def align(reference, heard):
    """Takes the constant part of the delay out: PESQ loses up to 0.3 on a pure delay of 18 ms."""
    import numpy
    from scipy.signal import correlate

    lags = correlate(heard, reference, mode="full", method="fft")
    lag = int(numpy.argmax(lags)) - (len(reference) - 1)
    lag = min(max(lag, 0), 96000)
    n = min(len(reference), len(heard) - lag)
    return reference[:n], heard[lag : lag + n]


def pesq_wideband(reference, heard):
    """PESQ of 48 kHz signals at 16 kHz, wideband."""
    import numpy
    from pesq import pesq
    from scipy.signal import resample_poly

    reference, heard = align(reference, heard)
    a = resample_poly(reference, 1, 3).astype(numpy.float32)
    b = resample_poly(heard, 1, 3).astype(numpy.float32)
    try:
        return pesq(16000, a, b, "wb")
    except Exception:  # no utterance found: nothing intelligible came through
        return 1.0


_VISQOL = None


def visqol(reference, heard):
    global _VISQOL
    from scipy.signal import resample_poly

    if _VISQOL is None:
        from visqol import VisqolApi

        _VISQOL = VisqolApi()
        _VISQOL.create(mode="speech")
    a, b = resample_poly(reference, 1, 3), resample_poly(heard, 1, 3)
    n = min(len(a), len(b))
    return _VISQOL.measure_from_arrays(a[:n], b[:n], 16000).moslqo


def plcmos(heard):
    from scipy.signal import resample_poly
    from speechmos import plcmos as scorer

    signal = resample_poly(heard, 1, 3).clip(-1, 1)
    return scorer.run(signal, sr=16000)["plcmos"]


def one(job):
    bench, speech, keys, seed, out, with_visqol, with_plcmos = job
    with tempfile.TemporaryDirectory() as folder:
        wav = out or os.path.join(folder, "heard.wav")
        command = [bench, speech, wav, f"seed={seed}"] + keys
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout.strip().splitlines()[-1])
        reference, _ = load(speech)
        heard, _ = load(wav)
    result["pesq"] = pesq_wideband(reference, heard)
    if with_visqol:
        result["visqol"] = visqol(reference, heard)
    if with_plcmos:
        result["plcmos"] = plcmos(heard)
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--speech", required=True)
    parser.add_argument("--bench", default=BENCH)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--visqol", action="store_true")
    parser.add_argument("--plcmos", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--file", help="conditions, one NAME=key=value,... per line")
    parser.add_argument("conditions", nargs="*")
    options = parser.parse_args()
    conditions = list(options.conditions)
    if options.file:
        with open(options.file) as lines:
            conditions += [l.strip() for l in lines if l.strip() and not l.startswith("#")]
    voices = sorted(glob.glob(os.path.join(options.speech, "*.wav")))
    jobs, names = [], []
    for condition in conditions:
        name, _, rest = condition.partition("=")
        keys = [k for k in rest.split(";") if k]
        for voice in voices:
            for seed in range(1, options.seeds + 1):
                out = None
                if options.out:
                    os.makedirs(options.out, exist_ok=True)
                    base = os.path.basename(voice)[:-4]
                    out = os.path.join(options.out, f"{name}-{base}-{seed}.wav")
                jobs.append((options.bench, voice, keys, seed, out, options.visqol, options.plcmos))
                names.append(name)
    with ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(one, jobs))
    for condition in conditions:
        name = condition.partition("=")[0]
        mine = [r for r, n in zip(results, names) if n == name]
        pesqs = sorted(r["pesq"] for r in mine)
        row = {"condition": name, "runs": len(mine), "pesq": statistics.median(pesqs)}
        row["pesq_p10"] = pesqs[int(0.1 * (len(pesqs) - 1))]
        row["pesq_p90"] = pesqs[int(0.9 * (len(pesqs) - 1) + 0.5)]
        keys = [k for k in mine[0] if k != "pesq"]
        row.update({k: statistics.median(r[k] for r in mine) for k in keys})
        if options.json:
            print(json.dumps(row))
        else:
            extra = "".join(f" {k} {row[k]:.2f}" for k in ("visqol", "plcmos") if k in row)
            print(
                f"{name:28} pesq {row['pesq']:.2f} ({row['pesq_p10']:.2f} {row['pesq_p90']:.2f})"
                f"{extra} playout {row['playout_ms']:.0f} ms, with path"
                f" {row['path_to_ear_ms']:.0f} (limit {row['limit_ms']:.0f}) ms, concealed {row['concealed']:.3f},"
                f" payload {row['payload_bps']:.0f} bit/s, wire {row['wire_bytes_per_s']:.0f} B/s,"
                f" cut {row['cut_ms']:.0f} ms, repeated {row['repeated_ms']:.0f} ms"
            )


if __name__ == "__main__":
    main()
