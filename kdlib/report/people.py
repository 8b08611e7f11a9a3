"""Sample users: their last interactions and their recommendations."""

from markupsafe import Markup

from kdlib.report.content import Night
from kdlib.report.rendering import render


def people(night: Night) -> Markup:
    """A few users. Each has the history and the recommendations side by side."""
    return render("users", users=night.users)
