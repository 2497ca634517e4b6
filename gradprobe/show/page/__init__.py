"""A run as one HTML file that needs nothing else: verdict, why, what to do next, evidence, conditions.

``words`` and ``steps`` write the text, ``numbers`` packs what is drawn, ``document`` fills in the template. The
scripts beside this file draw the pictures in the browser, on canvas: a library for charts would be a hundred times
their size, and would take longer to start than the page may take to open.
"""

from gradprobe.show.page.document import render, write_page

__all__ = ["render", "write_page"]
