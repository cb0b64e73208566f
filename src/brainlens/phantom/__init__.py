"""A simulated subject whose truth is known: drawn scenes, anatomy, fMRI and EEG responses, the ideal observer."""
