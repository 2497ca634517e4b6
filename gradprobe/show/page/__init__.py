"""A run as one HTML file that needs nothing else: verdict, why, what to do next, evidence, conditions.

``words`` and ``steps`` say it, ``numbers`` packs what is drawn, ``document`` fills the template. The pictures are
drawn in the browser by the scripts beside this file, on canvas: a library for charts would be a hundred times
their size, and take longer to start than the page may take to open.
"""

from gradprobe.show.page.document import render, write_page

__all__ = ["render", "write_page"]
