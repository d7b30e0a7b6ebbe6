"""The report about a capture: from its packets to figures, and from these to a page.

`collecting` makes the model in `model` of packets, without any input or output; `page` makes HTML of it, with the
template beside it. Everything that is kept while a capture is read has bounds, and so has the page.
"""
