"""Serve the published tables as pages in a browser: `distilrec explore`. It only reads, and starts no engine."""

import threading
import warnings
import webbrowser
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from nicegui import app as pages
from nicegui import ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from jobs.runtime.console import say, warn
from jobs.runtime.extras import check_search_extra
from jobs.runtime.listening import LOCAL, in_url, is_local, listen
from jobs.runtime.names import models_of
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.explore.pages import add_pages
from kdlib.explore.shop import Shop
from kdlib.privacy.pseudonyms import BLANKS, pseudonym, read_key
from kdlib.report.content import Night
from kdlib.report.gather import find_partitions, gather


def run(config: RunConfig, *, host: str, port: int, browser: bool, of_day: bool) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
      config: the run config.
      host: the address to listen on.
      port: the port; 0: any that is free.
      browser: open a browser.
      of_day: show the config's date. Else each page shows the run that is in use when the page is opened.

    Raises:
      ConfigError: nothing can listen on this address and port.
      InputError: nothing is published.
    """
    shop = shop_of(config, of_day=of_day)
    shop.run()
    listener = listen(host, port)
    url = f"http://{in_url(host)}:{listener.getsockname()[1]}"
    if not is_local(host):
        warn(f"explore: warning: other machines reach {host}. The pages have no login and show what users did")
    # NiceGUI inspects every object of the process, and some objects of PyTorch then warn
    warnings.filterwarnings("ignore", category=FutureWarning, module="nicegui")
    server = uvicorn.Server(uvicorn.Config(_application(shop, host), log_level="warning", timeout_graceful_shutdown=1))
    say(f"explore: {config.name}, {url}; Ctrl-C ends it")
    if browser:
        pages.on_startup(lambda: threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start())
    with suppress(KeyboardInterrupt):  # uvicorn has closed all connections, then repeats the signal
        server.run(sockets=[listener])


def shop_of(config: RunConfig, *, of_day: bool) -> Shop:
    """What the pages need to know of the run config."""

    def night(ds: str) -> Night:
        found, k = find_partitions(config.root, ds), config.evaluation.judged_k
        return gather(config.root, ds, name=config.name, k=k, models=models_of(config), found=found)

    source, missing = config.privacy.key, ""
    try:
        check_search_extra()
    except ConfigError as error:
        missing = f"{error}."
    return Shop(
        name=config.name,
        root=config.root,
        day=config.day,
        ds=config.day if of_day else None,
        k=config.recommend.k,
        teachers={teacher.name: teacher.models for teacher in config.teachers},
        night=night,
        pseudonym_of=None if source is None else lambda user: pseudonym(read_key(source), user.strip(BLANKS)),
        search_missing=missing,
        made_up_times=config.input.events is not None and config.input.events.format == "sequences",
    )


def _application(shop: Shop, host: str) -> FastAPI:
    """The pages as an application. A local one answers only to local names, so that no other web page can read it."""
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_pages(shop)
    ui.run_with(application, language="en-US", tailwind=False, show_welcome_message=False, reconnect_timeout=10.0)
    if is_local(host):
        application.add_middleware(TrustedHostMiddleware, allowed_hosts=[in_url(host), *LOCAL])
    return application
