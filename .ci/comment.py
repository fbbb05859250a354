"""Post the gate's table on a pull request, or update the comment that an earlier run posted. No dependencies.

What it needs comes in variables that GitHub's runner sets, and in COMMENT (the name in the comment's hidden
mark), OUT (the folder with gate.md) and GITHUB_TOKEN. A comment that cannot be posted is a warning: only the
gate's exit code says whether the candidate passed.
"""

import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 60_000
"""GitHub takes 65,536."""
MOST_PAGES = 50
SECONDS = 20


def main() -> None:
    """Post or update the comment; without a pull request, do nothing."""
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    pull = event.get("pull_request") or {}
    mark = re.sub(r"[^\w.-]|--", "_", os.environ["COMMENT"])
    if not pull.get("number") or not mark:
        return
    try:
        said = publish(int(pull["number"]), f"<!-- ssleval gate: {mark} -->", body(pull))
    except (OSError, ValueError) as error:
        reason = str(error).replace("\n", " ")
        hint = "; the job needs `permissions: pull-requests: write`, which runs for forks do not get"
        hint = hint if isinstance(error, urllib.error.HTTPError) and error.code in {401, 403, 404} else ""
        said = f"::warning::the gate's comment was not posted ({reason}){hint}"
    sys.stdout.write(f"{said}\n")


def body(pull: dict[str, Any]) -> str:
    """Return the table, and which commit and run it is of."""
    table = Path(os.environ["OUT"], "gate.md")
    # What an earlier run said would stand there otherwise.
    text = table.read_text(encoding="utf-8") if table.exists() else "### Gate: it did not run; see the log\n"
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS].rpartition("\n")[0] + "\n\nThe rest is in the summary of the run.\n"
    # A name must not call somebody.
    text = re.sub(r"(?<!\w)@(?=\w)", "@<!-- -->", text)
    server, repository, run = (
        os.environ[f"GITHUB_{name}"] for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")
    )
    commit = str((pull.get("head") or {}).get("sha", ""))[:8]
    return f"{text}\n<sub>{commit}, [run {run}]({server}/{repository}/actions/runs/{run})</sub>\n"


def publish(number: int, mark: str, text: str) -> str:
    """Post or update the comment; return its address."""
    content = {"body": f"{mark}\n{text}"}
    issues = f"/repos/{os.environ['GITHUB_REPOSITORY']}/issues"
    found = earlier(f"{issues}/{number}/comments", mark)
    if found is not None:
        return str(ask("PATCH", f"{issues}/comments/{found}", content).get("html_url", ""))
    return str(ask("POST", f"{issues}/{number}/comments", content).get("html_url", ""))


def earlier(address: str, mark: str) -> int | None:
    """Return the number of our comment. Others may copy the mark: theirs are left alone."""
    name = login()
    for page in range(1, MOST_PAGES + 1):
        comments = ask("GET", f"{address}?per_page=100&page={page}")
        for comment in comments:
            author = comment.get("user") or {}
            own = author.get("login") == name if name else author.get("type") == "Bot"
            if own and str(comment.get("body", "")).startswith(mark):
                return int(comment["id"])
        if len(comments) < 100:
            break
    return None


def login() -> str:
    """Return whose token it is; '' for the token of a job or an app, which may not ask."""
    try:
        return str(ask("GET", "/user").get("login", ""))
    except urllib.error.HTTPError:
        return ""


def ask(method: str, path: str, content: dict[str, str] | None = None) -> Any:
    """Return what GitHub's API answers.

    Raises:
        OSError: it cannot be reached, or refuses.
    """
    request = urllib.request.Request(
        f"{os.environ.get('GITHUB_API_URL', 'https://api.github.com')}{path}",
        data=None if content is None else json.dumps(content).encode(),
        method=method,
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
            "Content-Type": "application/json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
