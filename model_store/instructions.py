"""What instructions say, as plain data: several paraphrases of each task, in few words, since a small model reads them.

A paraphrase may have slots: `{text}` for plain text, `{items}` for codes, `{field}` for a name from `FIELDS`. The blank
before a slot belongs to what fills it. `PromptEncoder.fill` turns a paraphrase into tokens.

The families are those of Semantic Convergence (arXiv:2412.13771), whose templates are not published; these are our own.
"""

_QUERY = (
    "find: {text}",
    "search: {text}",
    "show me {text}",
    "looking for {text}",
    "wanted: {text}",
    "which item is meant by {text}?",
)

QUERY = _QUERY[0]
"""How a query is asked at serving time, by a user with a history or without one."""

FIELDS = ("title", "description", "title and description")
"""What of an item can be asked for."""

YES, NO = "yes", "no"
"""The answers of a judgement."""

PARAPHRASES = {
    "text_to_code": (
        "item: {text}",
        "name this item: {text}",
        "which item is this? {text}",
        "the item that reads {text}",
        "code of {text}",
    ),
    "code_to_text": (
        "{field} of {items}",
        "give the {field} of {items}",
        "{items} has which {field}?",
        "what is the {field} of {items}?",
        "write the {field}: {items}",
    ),
    "titles_to_code": (
        "after: {text}",
        "taken so far: {text}",
        "what follows {text}?",
        "next, after {text}",
        "someone took {text}. And then?",
    ),
    "history_to_title": (
        "{field} of the next item",
        "next item, its {field}",
        "what comes next? Give the {field}",
        "write the {field} of what follows",
        "describe the next item: {field}",
    ),
    "query_to_code": _QUERY,
    "query_with_history": _QUERY,
    "preference": (
        "what does this user like?",
        "interests of this user",
        "this user's taste, in words",
        "describe the user's preference",
        "what is this user after?",
    ),
    "judge": (
        "is {items} next?",
        "would {items} fit?",
        "does this user want {items}?",
        "next {items}, yes or no?",
        "judge {items}",
    ),
    "choose": (
        "choose the next: {items}",
        "which comes next? {items}",
        "pick the one that fits: {items}",
        "best of {items}",
        "one of these follows: {items}",
    ),
    "avoid": (
        "which does not fit? {items}",
        "odd one out: {items}",
        "avoid one: {items}",
        "worst of {items}",
        "one of these is unwanted: {items}",
    ),
}
"""By task family, in the order of `offline.tasks.task_mix.FAMILIES`."""
