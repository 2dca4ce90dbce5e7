"""Tables, figures, captions, findings and the page, from metrics.

Nothing here computes with an encoder."""
