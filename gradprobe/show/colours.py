"""The colours that figures and the page share, without matplotlib, whose import takes longer than a page."""

# vermillion, blue and green of Okabe and Ito's palette, which every kind of colour vision tells apart
FLAGGED, FINE, BRANCH = "#d55e00", "#0072b2", "#007a5a"
# matplotlib's viridis (van der Walt and Smith, 2015) at 33 equal steps
# fmt: off
VIRIDIS = (
    "#440154", "#470d60", "#48186a", "#482374", "#472d7b", "#453781", "#424086", "#3e4989", "#3b528b",
    "#375b8d", "#33638d", "#2f6b8e", "#2c728e", "#297a8e", "#26828e", "#23898e", "#21918c", "#1f988b",
    "#1fa088", "#22a785", "#28ae80", "#32b67a", "#3fbc73", "#4ec36b", "#5ec962", "#70cf57", "#84d44b",
    "#98d83e", "#addc30", "#c2df23", "#d8e219", "#ece51b", "#fde725",
)
# fmt: on
