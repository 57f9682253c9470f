"""Which alignment tasks a run trains on, and how much of each.

Semantic Convergence (arXiv:2412.13771) trains on sequential, text and query tasks and on negatives; which ones exactly,
and in what mix, is not published. Ours are LC-Rec's (arXiv:2311.09049) and three tasks with negatives. The sequential
task itself is the trainer's own and not listed here.
"""

from dataclasses import dataclass

from model_store.errors import TesseraError

FAMILIES = (
    "text_to_code",
    "code_to_text",
    "titles_to_code",
    "history_to_title",
    "query_to_code",
    "query_with_history",
    "preference",
    "judge",
    "choose",
    "avoid",
)


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How much of each task. Weights are shares of the task examples, in any unit; 0 switches a family off.

    A family that the data cannot feed (no titles, for one) is left out, and the others share its place.
    """

    share: float = 0.5
    """Tokens of task examples per token of sequential training; 0 switches all of them off."""
    text_to_code: float = 0.15
    """Title, description or both -> the item."""
    code_to_text: float = 0.1
    """Item -> title, description or both."""
    titles_to_code: float = 0.15
    """Titles of a history -> the next item."""
    history_to_title: float = 0.1
    """History -> title or description of the next item."""
    query_to_code: float = 0.1
    """Query -> the item it means."""
    query_with_history: float = 0.15
    """History and query -> the next item."""
    preference: float = 0.05
    """History -> the user's preference in words."""
    judge: float = 0.1
    """History and an item -> whether it is the next one."""
    choose: float = 0.05
    """History, the next item and negatives -> the next item."""
    avoid: float = 0.05
    """History, items the user goes for and one negative -> the negative."""
    negatives: int = 4
    """Negatives in a list to choose from, and items beside the negative in a list to avoid one of."""
    hard_negatives: float = 0.5
    """Share of negatives that have the first one or two codes of the item they stand beside."""

    def __post_init__(self) -> None:
        for name in ("share", *FAMILIES):
            if not 0 <= getattr(self, name) < float("inf"):
                raise TesseraError(f"tasks.{name} must be a finite number of at least 0, not {getattr(self, name)}")
        if self.negatives < 1:
            raise TesseraError(f"tasks.negatives must be at least 1, not {self.negatives}")
        if not 0 <= self.hard_negatives <= 1:
            raise TesseraError(f"tasks.hard_negatives must be between 0 and 1, not {self.hard_negatives}")
