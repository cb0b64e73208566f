"""Which part of an input carried a score: one file a method, all on tensors and callables, none knows a model.

Every method takes features or inputs, a function to embeddings (B, ...) -> (B, d) and targets (B, d) or (B, k, d), and
returns one value per sample and unit, (sample, unit). The score is the cosine to the target, summed over k targets.
"""
