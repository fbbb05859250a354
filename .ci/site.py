"""What mkdocs does with a page of docs/ before it becomes a page of the site; see `hooks` in mkdocs.yml.

Pages link to files of the repository, as they are read there too. On the site the source of a task becomes
its place in the reference, and any other file its page on GitHub, where the job knows the repository.
"""

import os
import posixpath
import re
from typing import Any


def on_config(config: Any) -> Any:
    """Take the addresses of the repository and of the site from the job."""
    owner, _, name = os.environ.get("GITHUB_REPOSITORY", "").partition("/")
    if name:
        config.repo_url = f"https://github.com/{owner}/{name}"
        config.site_url = f"https://{owner}.github.io/{name}/"
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001
    """Lead links out of docs/ somewhere."""
    folder = posixpath.dirname(page.file.src_uri)

    def led(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = posixpath.normpath(posixpath.join("docs", folder, target))
        if path.startswith("docs/"):
            return link[0]
        task = re.fullmatch(r"ssleval/tasks/(\w+)\.py", path)
        if task:
            up = posixpath.relpath("api-tasks.md", folder or ".")
            return f"[{text}]({up}#ssleval.tasks.{task[1]})"
        return f"[{text}]({config.repo_url}/blob/HEAD/{path})" if config.repo_url else text

    return re.sub(r"(?<!!)\[([^\]\[]*)\]\((\.\./[^)\s#]*)\)", led, markdown)
