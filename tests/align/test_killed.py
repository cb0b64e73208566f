"""A training that is killed with signal 9 and started again ends with the same weights to the bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import torch

from brainlens import store

PROGRAM = """
import os, signal, sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from brainlens import store
from brainlens.models.volume.split import split_tables
from brainlens.models.volume.training import AlignmentTraining, train_contrastive
from brainlens.nn.decoding_baselines import ComponentDecoder
from brainlens.types import Features, Responses

torch.set_num_threads(1)
folder, out, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
ids = np.array([f"i{i:02d}" for i in range(60)])
z = rng.normal(size=(60, 6)).astype(np.float32)
x = (z @ rng.normal(size=(6, 40)) + rng.normal(size=(60, 40))).astype(np.float32)
trials = pd.DataFrame({"stimulus": ids, "split": np.where(np.arange(60) < 45, "train", "test")})
split = split_tables(Responses(x, trials, pd.DataFrame(index=range(40))), Features({"image": z}, ids, "made up"))
torch.manual_seed(0)
module = ComponentDecoder(40, 6)

def tell(step, record):
    if step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

training = AlignmentTraining(steps=40, batch=16, evaluate_every=10, checkpoint_every=10)
train_contrastive(module, split, training, seed=1, folder=folder, progress=tell)
store.save_weights(out, "module", module.state_dict())
"""


def run(folder: Path, out: Path, kill_at: int) -> int:
    return subprocess.run([sys.executable, "-c", PROGRAM, str(folder), str(out), str(kill_at)], check=False).returncode


def test_signal_9_changes_no_bit(tmp_path):
    assert run(tmp_path / "a", tmp_path / "whole", -1) == 0
    assert run(tmp_path / "b", tmp_path / "resumed", 30) == -signal.SIGKILL
    assert not (tmp_path / "resumed").exists()
    assert store.load_checkpoint(tmp_path / "b")["step"] == 20
    assert run(tmp_path / "b", tmp_path / "resumed", -1) == 0
    whole, resumed = (store.load_weights(tmp_path / name, "module") for name in ("whole", "resumed"))
    assert set(whole) == set(resumed)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name])
