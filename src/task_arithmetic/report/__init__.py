"""Tables, figures, captions, findings and the page, from metrics.

Numbers come from `cells`, a table's rows and columns from `tables`, its headings and formats from
`printing`, published numbers from `reference`, sentences and claims from `findings`, figures from
`figures` in the style of `drawing`; what is shown of merging methods, from `merging` and
`merging_figure`.
Nothing here computes with an encoder."""
