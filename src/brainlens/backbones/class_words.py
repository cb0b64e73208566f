"""An image-text space without CLIP: an image classifier's class names, read by a sentence encoder.

    image:  e(i) = sum_k p_k(i) t_k / |...|,      p = softmax of the classifier's logits, t_k the embedding of class name k
    text:   t(s) / |t(s)|,                        mean over tokens of the sentence encoder's last states

so that pictures and sentences lie on one sphere, as far as the classes reach. Any `...ForImageClassification` of transformers and
any sentence encoder that pools by the mean over tokens (MiniLM, MPNet) can be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainlens.backbones.folder import library, load_tokenizer, load_weights, model_folder
from brainlens.backbones.preprocess import Preprocess, read_preprocess
from brainlens.backbones.vision import read_images
from brainlens.types import DataError, Features, Stimuli


@dataclass(frozen=True)
class SentenceEncoder:
    """A sentence encoder: `embed(texts)` -> (text, d) of length 1."""

    model: Any
    tokenizer: Any
    limit: int
    name: str

    def embed(self, texts: Sequence[str], *, batch: int = 64) -> np.ndarray:
        """Unit embeddings (text, d) float32; what is longer than the limit is cut. Raises DataError for an empty text."""
        empty = [i for i, text in enumerate(texts) if not text.strip()]
        if empty or not len(texts):
            raise DataError(f"{self.name}: text {empty[0] if empty else 0} is empty; drop it or write one")
        parts = []
        for start in range(0, len(texts), batch):
            given = {"padding": True, "truncation": True, "max_length": self.limit, "return_tensors": "pt"}
            tokens = self.tokenizer(list(texts[start : start + batch]), **given)
            with torch.inference_mode():
                states = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
            mask = tokens["attention_mask"][..., None].to(states)
            mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
            parts.append(torch.nn.functional.normalize(mean.float(), dim=1).numpy())
        return np.concatenate(parts)


@dataclass(frozen=True)
class ClassSpace:
    """A classifier whose class names are embedded: names (class,), words (class, d) of length 1."""

    model: Any
    preprocess: Preprocess
    names: tuple[str, ...]
    words: np.ndarray
    encoder: SentenceEncoder

    def images(self, stimuli: Stimuli, *, batch: int = 32) -> Features:
        """Layer "image" (stimulus, d) float32 of length 1."""
        parts = []
        for start in range(0, len(stimuli), batch):
            images = read_images(stimuli, range(start, min(start + batch, len(stimuli))))
            with torch.inference_mode():
                logits = self.model(pixel_values=torch.from_numpy(self.preprocess.batch(images))).logits
            share = torch.softmax(logits.float(), dim=1).numpy()
            rows = share @ self.words
            parts.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        return Features({"image": np.concatenate(parts).astype(np.float32)}, stimuli.ids, f"{self.encoder.name} by class names")

    def texts(self, nouns: Sequence[str]) -> np.ndarray:
        """Embeddings (noun, d) of words or sentences."""
        return self.encoder.embed(nouns)


def load_sentences(folder: str | Path) -> SentenceEncoder:
    """A sentence encoder from a folder or by hub name. Raises DataError for a network without text states."""
    place = model_folder(folder)
    model = load_weights(library().AutoModel, place).float()
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None or not hasattr(model.config, "vocab_size"):
        raise DataError(f"{str(folder)!r} holds a {model.config.model_type} model, not a sentence encoder")
    tokenizer = load_tokenizer(place, vocabulary=int(model.config.vocab_size))
    return SentenceEncoder(model, tokenizer, min(int(limit), 256), Path(folder).name)


def load_class_space(classifier: str | Path, sentences: str | Path) -> ClassSpace:
    """A classifier and a sentence encoder as one space. Raises DataError for a classifier without class names."""
    place = model_folder(classifier)
    model = load_weights(library().AutoModelForImageClassification, place).float()
    names = tuple(str(model.config.id2label[k]) for k in range(model.config.num_labels))
    if all(name.startswith("LABEL_") for name in names):
        raise DataError(
            f"{str(classifier)!r} has no class names (config.json, id2label); give a classifier that names its classes"
        )
    encoder = load_sentences(sentences)
    return ClassSpace(model, read_preprocess(place), names, encoder.embed(names), encoder)
