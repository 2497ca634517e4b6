"""A page in Debian's chromium: tabs that stay, and what goes wrong in them."""


class Tabs:
    """A tab for each colour scheme, and what went wrong in them; opening a tab takes longer than a page in it."""

    def __init__(self, browser):
        self.errors, self.requests = [], []
        self._browser, self._tabs = browser, {}

    def open(self, file, width, scheme):
        if scheme not in self._tabs:
            self._tabs[scheme] = self._new()
        page = self._tabs[scheme]
        page.bring_to_front()  # a tab behind another may be given no frames to draw in
        page.mouse.move(1, 1)
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(media="screen", color_scheme=scheme)
        page.goto(file.as_uri())
        page.locator("html[data-ready]").wait_for()
        settle(page)
        return page

    def _new(self):
        page = self._browser.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text))
        page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        page.on("request", lambda request: self.requests.append(request.url))
        return page


def settle(page):
    """Wait until what was asked for is drawn: two frames."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def flagged_in(page):
    return page.evaluate("flagged().map((row) => DATA.names[row])")


def column(page, name):
    titles = page.locator("#table thead th").all_inner_texts()
    at = titles.index(name)
    return page.locator(f"#table tbody tr > :nth-child({at + 1})").all_inner_texts()
