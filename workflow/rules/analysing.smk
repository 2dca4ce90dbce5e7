# Analyses beside the paper's, of the encoder `focus`.
ANALYSED = []  # the metrics of those that this run has
