"""The tasks: each fills one of the pages in pages/ with what its seed draws, and judges what became of it."""

from pathlib import Path

from browsergym.core.task import AbstractBrowserTask
from playwright.sync_api import Page

PAGES = Path(__file__).parent.parent / "pages"
DRINKS = ("tea", "coffee", "water", "juice")


class PageTask(AbstractBrowserTask):
    """A task on one local page, whose script says in `window.result` what was handed in."""

    page_name = ""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.slow_mo = 0
        self.goal, self.expected, self.data = self.draw()

    def draw(self) -> tuple[str, object, object]:
        """The goal, the result that it asks for, and what the page is filled with."""
        raise NotImplementedError

    def setup(self, page: Page) -> tuple[str, dict]:
        page.goto((PAGES / self.page_name).as_uri())
        page.evaluate("data => begin(data)", self.data)
        return self.goal, {}

    def validate(self, page: Page, chat_messages: list) -> tuple[float, bool, str, dict]:
        result = page.evaluate("() => window.result ?? null")
        if result is None:
            return 0.0, False, "", {}
        return float(result == self.expected), True, "", {}


class Order(PageTask):
    """A form: a name, a choice, a button."""

    page_name = "order.html"

    def draw(self) -> tuple[str, object, object]:
        drink = DRINKS[self.random.randint(len(DRINKS))]
        table = int(self.random.randint(1, 100))
        return f"Order {drink} for table {table}.", {"drink": drink, "table": str(table)}, list(DRINKS)


class Find(PageTask):
    """Many buttons with numbers, of which one is to be pressed."""

    page_name = "find.html"

    def draw(self) -> tuple[str, object, object]:
        numbers = [int(number) for number in self.random.permutation(range(100, 1000))[:12]]
        wanted = numbers[self.random.randint(len(numbers))]
        return f"Press the button {wanted}.", wanted, numbers


TASKS: dict[str, type[PageTask]] = {"order": Order, "find": Find}
