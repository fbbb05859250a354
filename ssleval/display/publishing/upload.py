"""Propose results to a repository of the Hugging Face Hub: one pull request, which its owner may merge."""

from collections.abc import Mapping
from typing import Any

from ssleval.errors import DataError


def propose(repository: str, files: Mapping[str, str]) -> str:
    """Open a pull request that adds ``files``; return its address.

    Of a model card that is there, only results in `model-index` are added or replaced; its text stays.

    Raises:
        DataError: the Hub cannot be reached or refuses, or the card that is there cannot be read.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    api = HfApi()
    try:
        try:
            with open(api.hf_hub_download(repository, "README.md"), encoding="utf-8") as file:  # noqa: PTH123
                card = merged(file.read(), files["README.md"], repository)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise
            card = files["README.md"]
        done = api.create_commit(
            repository,
            [CommitOperationAdd(name, text.encode()) for name, text in {**files, "README.md": card}.items()],
            commit_message="Add evaluation results",
            commit_description="Measured on frozen features by ssleval.",
            create_pr=True,
        )
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{repository}: nothing was uploaded: {reason}; a token that may write discussions is given by "
            "`hf auth login` or HF_TOKEN"
        ) from error
    return done.pr_url or done.commit_url


def merged(existing: str, ours: str, repository: str) -> str:
    """Return a model card with our results; those of the same data and metric name are replaced.

    Raises:
        DataError: it has results of several models, of which the library keeps one.
    """
    from huggingface_hub import ModelCard

    card = ModelCard(existing)
    data: Any = card.data
    new: Any = ModelCard(ours).data
    if _several_models(existing):
        raise DataError(f"{repository}: its model card has results of several models; add ours by hand")
    added = {(one.unique_identifier, one.metric_name): one for one in new.eval_results or ()}
    kept = [one for one in data.eval_results or () if (one.unique_identifier, one.metric_name) not in added]
    data.eval_results = [*kept, *added.values()]
    data.model_name = data.model_name or repository.rpartition("/")[2]
    return str(card)


def _several_models(card: str) -> bool:
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    found = REGEX_YAML_BLOCK.search(card)
    index = (yaml.safe_load(found.group(2)) or {}).get("model-index") if found else None
    return isinstance(index, list) and len(index) > 1
