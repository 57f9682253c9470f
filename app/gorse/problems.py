"""What can go wrong with Gorse's calls alone."""

from app.problems import Problem


class NotStored(Problem):
    """The call is about what is not kept here."""

    status = 501
    name = "not-stored"
    title = "Not stored"
    detail = "What this call is about is not kept."
