#!/usr/bin/env python3
"""Makes the conversation of `cooee lab voice`: who says what when, from packaged speech.

usage: conversation.py FOLDER [--sentences N]

Writes FOLDER/conversation.raw (48 kHz, 16 bit, four channels: 0 what Alice says, 2 what Bob says,
1 and 3 silent: their ears) and FOLDER/conversation.json, its sentences. Alice and Bob first speak
at once until SETTLE seconds, which nobody scores, then in turn. The speech comes from Debian's
asterisk-core-sounds-*-g722 and pocketsphinx-testdata (16 kHz), brought to -23 dB below full scale.
"""
import argparse
import json
import os

import numpy
from scipy.signal import resample_poly

SOUNDS = "/usr/share/asterisk/sounds"
READER = "/usr/share/pocketsphinx/test/data/librivox/sense_and_sensibility_01_austen_64kb"
RATE = 48_000
SETTLE = 8.0
GAP = 0.7
LEAD = 0.5
LEVEL_DB = -23.0

# Language and sex, who says it, file.
SENTENCES = [
    ("Italian, man", "alice", SOUNDS + "/it_IT_m_Carlo/vm-tempgreeting2.g722"),
    ("French, woman", "bob", SOUNDS + "/fr_CA_f_June/dictate/record_help.g722"),
    ("Russian, woman", "alice", SOUNDS + "/ru_RU_f_IvrvoiceRU/demo-thanks.g722"),
    ("English, man", "bob", READER + "-0890.wav"),
    ("English, woman", "alice", SOUNDS + "/en_US_f_Allison/dir-usingkeypad.g722"),
    ("Spanish, woman", "bob", SOUNDS + "/es_MX_f_Allison/dir-usingkeypad.g722"),
]
CHANNEL = {"alice": 0, "bob": 2}


def decode(path):
    """16 kHz samples of a file, between -1 and 1, silence at both ends cut off."""
    import av

    if path.endswith(".wav"):
        import soundfile

        sound, rate = soundfile.read(path, dtype="float32")
        assert rate == 16_000, path
    else:
        with av.open(path, format="g722") as container:
            frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
        sound = numpy.concatenate(frames).astype(numpy.float32) / 32_768
    loud = numpy.flatnonzero(numpy.abs(sound) > 0.01)
    return sound[max(loud[0] - 800, 0) : loud[-1] + 800]


def sentence(path):
    """48 kHz samples at the level, faded in and out over 10 ms."""
    sound = decode(path)
    active = sound[numpy.abs(sound) > 0.02]
    sound = sound * (10 ** (LEVEL_DB / 20) / numpy.sqrt(numpy.mean(active**2)))
    sound = numpy.clip(resample_poly(sound, 3, 1), -0.99, 0.99)
    fade = numpy.linspace(0, 1, RATE // 100)
    sound[: len(fade)] *= fade
    sound[-len(fade) :] *= fade[::-1]
    return sound


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--sentences", type=int, default=len(SENTENCES), help="how many, in turn")
    options = parser.parse_args()
    missing = [path for _, _, path in SENTENCES if not os.path.exists(path)]
    if missing:
        raise SystemExit(f"{missing[0]} is missing: scripts/install-dependencies voice")
    chosen = SENTENCES[: options.sentences]
    spoken = [(voice, who, sentence(path)) for voice, who, path in chosen]
    settle = int(SETTLE * RATE)
    lead = int(LEAD * RATE)
    at = settle + int(GAP * RATE)
    total = at + sum(len(sound) + int(GAP * RATE) for _, _, sound in spoken)
    channels = numpy.zeros((total, 4), numpy.float32)
    for who, channel in CHANNEL.items():
        said = numpy.concatenate([sound for _, speaker, sound in spoken if speaker == who])
        channels[lead:settle, channel] = numpy.resize(said, settle - lead)
    sentences = []
    for voice, who, sound in spoken:
        channels[at : at + len(sound), CHANNEL[who]] = sound
        place = {"voice": voice, "channel": CHANNEL[who], "start": at, "samples": len(sound)}
        sentences.append(place)
        at += len(sound) + int(GAP * RATE)
    os.makedirs(options.folder, exist_ok=True)
    with open(os.path.join(options.folder, "conversation.raw"), "wb") as out:
        out.write((channels * 32_767).astype("<i2").tobytes())
    with open(os.path.join(options.folder, "conversation.json"), "w") as out:
        plan = {"rate": RATE, "settle": settle, "samples": total, "sentences": sentences}
        json.dump(plan, out, indent=1)


if __name__ == "__main__":
    main()
