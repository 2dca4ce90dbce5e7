"""The paper, in torch alone: task vectors, f_lin, training, the choice of α, disentanglement.

Nothing here knows files, configuration or jobs."""
