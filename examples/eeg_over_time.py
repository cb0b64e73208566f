"""When can two conditions be told apart? EEG of your own as an mne.Epochs file, decoded at every time.

The epochs here are made on the spot: noise, and a response over five of 16 channels that differs from 150 to 300 ms.
"""

import tempfile
from pathlib import Path

import mne
import numpy as np

from brainlens import Responses
from brainlens.encode import OverTime, decode
from brainlens.plots import decoding


def main(out: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine-epo.fif"
        made().save(file, verbose="error")
        epochs = mne.read_epochs(file, verbose="error")

    responses = Responses.from_epochs(epochs)  # volts become microvolts; the names of the events are the stimuli
    result = decode(responses, "stimulus", over_time=OverTime(window=0.02, permutations=200))

    figure = decoding.over_time(result.tables["timecourse"], result=result)
    path = out / "eeg_over_time.png"
    figure.savefig(path, dpi=110)
    return path


def made() -> mne.EpochsArray:
    """120 epochs of two conditions in volts, 16 channels, 100 Hz, from -0.2 to 0.6 s."""
    rng = np.random.default_rng(0)
    times = np.arange(-0.2, 0.6, 0.01)
    house = np.arange(120) % 2
    data = rng.normal(0, 8e-6, (120, 16, len(times)))
    data[:, :5] += 3e-6 * np.outer(house, (times > 0.15) & (times < 0.3))[:, None]
    info = mne.create_info([f"E{i}" for i in range(1, 17)], 100.0, "eeg")
    events = np.stack([np.arange(120) * 100, np.zeros(120, int), house + 1], axis=1)
    return mne.EpochsArray(data, info, events, tmin=-0.2, event_id={"face": 1, "house": 2}, verbose="error")


if __name__ == "__main__":
    print(main(Path()))
