"""The EEG phantom's one free number: the amplitude at which the NICE-style encoder reaches its published top-1.

    python tools/claims_eeg.py --amplitudes 0.4 0.6 --subjects 9

Full size, published recipe, within subject, subjects that no claim uses. The value is written into phantom/eeg.py by hand,
once. `make claims ONLY=eeg` runs the claims.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from brainlens.claims.sensors import SensorStudy, fit_once, sensor_tables, subject_recording
from brainlens.subjects import Protocol


def tell(text: str, share: float | None = None) -> None:
    """Progress."""
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--amplitudes", type=float, nargs="+", required=True, help="uV")
    parser.add_argument("--subjects", type=int, nargs="+", default=[9, 10])
    parser.add_argument("--train", type=int, default=SensorStudy.train)
    parser.add_argument("--patience", type=int, default=SensorStudy.patience)
    parser.add_argument("--methods", nargs="+", default=["nice"])
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    chosen = parser.parse_args()
    study = SensorStudy(train=chosen.train, patience=chosen.patience)
    tables = sensor_tables(study, chosen.out, tell)
    for amplitude in chosen.amplitudes:
        for number in chosen.subjects:
            this = replace(study, amplitude=amplitude)
            subject = subject_recording(tables, this, number, chosen.out)
            for method in chosen.methods:
                protocol = Protocol(subject=str(number))
                _, found = fit_once(subject.responses, tables, method, study=this, protocol=protocol, seed=0)
                snr = f"single-trial SNR {subject.truth.snr():.5f}, of 80 {subject.truth.snr(80):.3f}"
                where = f"epoch {found.get('best_epoch')} of {len(found.get('log', []))}, {found['seconds']:.0f} s"
                tell(f"{amplitude} uV subject {number} {method}: {found['top1']:.3f} {found['top5']:.3f}; {snr}; {where}")


if __name__ == "__main__":
    main()
