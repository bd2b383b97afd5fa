#!/usr/bin/env python3
"""How well echo is taken out beside webrtc-audio-processing: AECMOS, echo return loss enhancement, PESQ.

usage: echo_quality.py [--bench PATH] [--json]

A room of decaying reflections (0.3 s to -60 dB) behind a loudspeaker that bends loud sound, at three
delays; the far voice speaks alone (10 s to learn, 10 s scored), both speak (10 s), the near voice speaks
alone (10 s), in faint noise. AECMOS (speechmos, 48 kHz): `echo` is how little echo is heard, `other` how
little else is spoilt, both 1 to 5. Needs what requirements.txt lists, g++ and libwebrtc-audio-processing-dev.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

import numpy
import soundfile
from conversation import RATE, SENTENCES, sentence
from scipy.signal import correlate, fftconvolve
from voice_quality import ROOT, pesq_wideband

BENCH = os.path.join(ROOT, "target/release/examples/processing_bench")
HERE = os.path.dirname(os.path.abspath(__file__))
DELAYS_MS = [20, 60, 120]
SPAN = 10 * RATE
ECHO_DB = -10.0
REVERBERATION_S = 0.3
# A laptop: its loudspeaker is nearer to its microphone than the critical distance of the room.
DIRECT_DB = 6.0
NOISE_DB = -65.0


def speech(voice, samples):
    """A voice that goes on and on, with short pauses."""
    once = numpy.concatenate([voice, numpy.zeros(RATE // 3)])
    return numpy.resize(once, samples)


def room(delay_ms, generator):
    """What lies between loudspeaker and microphone: the direct way and a tail, 6 dB below it in all."""
    samples = int(REVERBERATION_S * RATE)
    tail = generator.standard_normal(samples) * 10 ** (-3 * numpy.arange(samples) / samples)
    tail[0] = 10 ** (DIRECT_DB / 20) * numpy.sqrt(numpy.sum(tail[1:] ** 2))
    response = numpy.concatenate([numpy.zeros(delay_ms * RATE // 1_000), tail])
    return response / numpy.sqrt(numpy.sum(response**2))


def scene(far_voice, near_voice, delay_ms, seed):
    """Loudspeaker, microphone and the near voice alone, each four spans long."""
    generator = numpy.random.default_rng(seed)
    silence = numpy.zeros(SPAN)
    far = numpy.concatenate([speech(far_voice, 3 * SPAN), silence])
    near = numpy.concatenate([silence, silence, speech(near_voice, 2 * SPAN)])
    played = numpy.tanh(3 * far) / 3
    echo = fftconvolve(played, room(delay_ms, generator))[: len(far)] * 10 ** (ECHO_DB / 20)
    noise = generator.standard_normal(len(far)) * 10 ** (NOISE_DB / 20)
    return far, near + echo + noise, near


def cooee(bench, far, microphone):
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("near.wav", "far.wav", "out.wav")]
        soundfile.write(paths[0], microphone, RATE, subtype="PCM_16")
        soundfile.write(paths[1], far, RATE, subtype="PCM_16")
        command = [bench, paths[0], paths[1], "-", paths[2], "echo,noise,gain"]
        subprocess.run(command, check=True, capture_output=True)
        return soundfile.read(paths[2])[0]


def webrtc(program, far, microphone):
    pairs = numpy.stack([microphone, far], axis=1).astype(numpy.float32)
    done = subprocess.run([program], input=pairs.tobytes(), check=True, capture_output=True)
    return numpy.frombuffer(done.stdout, numpy.float32).astype(float)


def build_webrtc(folder):
    program = os.path.join(folder, "webrtc_processing")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "webrtc-audio-processing"], check=True, capture_output=True, text=True
    ).stdout.split()
    source = os.path.join(HERE, "webrtc_processing.cc")
    subprocess.run(["g++", "-O2", source, "-o", program, *flags], check=True)
    return program


def aligned(reference, heard):
    """`heard` moved to where `reference` is; processing takes some milliseconds."""
    lag = int(correlate(heard, reference, "full", method="fft").argmax()) - len(reference) + 1
    lag = min(max(lag, 0), RATE // 20)
    return numpy.concatenate([heard[lag:], numpy.zeros(lag)])


def score(mos, far, microphone, near, heard):
    heard = numpy.concatenate([heard, numpy.zeros(max(len(far) - len(heard), 0))])[: len(far)]
    heard = aligned(near, heard)
    spans = {"st": slice(SPAN, 2 * SPAN), "dt": slice(2 * SPAN, 3 * SPAN), "nst": slice(3 * SPAN, 4 * SPAN)}
    rate = {}
    for kind, span in spans.items():
        clips = {"lpb": far[span], "mic": microphone[span], "enh": heard[span]}
        clips = {name: numpy.clip(sound, -1, 1).astype(numpy.float32) for name, sound in clips.items()}
        rate[kind] = mos(clips, kind)
    power = lambda sound: numpy.mean(sound**2) + 1e-12
    return {
        "echo_return_loss_enhancement_db": 10 * float(numpy.log10(power(microphone[spans["st"]]) / power(heard[spans["st"]]))),
        "far_alone_echo": rate["st"]["echo_mos"],
        "both_echo": rate["dt"]["echo_mos"],
        "both_other": rate["dt"]["deg_mos"],
        "near_alone_other": rate["nst"]["deg_mos"],
        "both_pesq": pesq_wideband(near[spans["dt"]], heard[spans["dt"]]),
        "near_alone_pesq": pesq_wideband(near[spans["nst"]], heard[spans["nst"]]),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", default=BENCH)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from speechmos.aecmos import AECMOS

    mos = AECMOS("aecmos_48kHz")
    voices = [sentence(path) for _, _, path in SENTENCES]
    with tempfile.TemporaryDirectory() as folder:
        program = build_webrtc(folder)
        peers = {
            "nothing": lambda far, microphone: microphone,
            "cooee": lambda far, microphone: cooee(options.bench, far, microphone),
            "webrtc-audio-processing": lambda far, microphone: webrtc(program, far, microphone),
        }
        for peer, process in peers.items():
            rows = []
            for number, voice in enumerate(voices):
                for delay_ms in DELAYS_MS:
                    far, microphone, near = scene(voice, voices[number - 1], delay_ms, number)
                    rows.append(score(mos, far, microphone, near, process(far, microphone)))
            figures = {}
            for name in rows[0]:
                values = sorted(row[name] for row in rows)
                figures[name] = [round(v, 2) for v in (statistics.median(values), values[0], values[-1])]
            if options.json:
                print(json.dumps({"peer": peer, "scenes": len(rows), **figures}), flush=True)
                continue
            print(peer)
            for name, (median, least, most) in figures.items():
                print(f"  {name:34} {median:6.2f} ({least:.2f} to {most:.2f})", flush=True)


if __name__ == "__main__":
    main()
