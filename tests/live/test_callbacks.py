"""Live evaluation inside other people's trainers, with the real packages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ssleval
from ssleval.core.backbone import Backbone
from ssleval.live import for_lightning, for_transformers
from tests.live.live_fakes import WRAP, Net, knn

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = [2, 4, 6]


def of_net(module: Any) -> Backbone:
    return ssleval.wrap(module.net, **WRAP)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_fit_of_lightning(tmp_path: Path) -> None:
    lightning: Any = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")
    from lightning.pytorch.loggers import CSVLogger  # pyright: ignore[reportMissingImports]

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()
            self.monitored: list[float] = []

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    def fitted(*callbacks: Any) -> Any:
        torch.manual_seed(0)
        images = torch.randn(24, 3, 32, 32)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=4)
        model = Model()
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", callbacks=[*callbacks], enable_progress_bar=False,
            enable_model_summary=False, logger=CSVLogger(str(tmp_path), name="fit"), log_every_n_steps=1,
            enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(model, loader)
        return trainer, model

    path = tmp_path / "live.jsonl"
    evaluator = knn(path, every=2, wrap=of_net)
    trainer, model = fitted(for_lightning(evaluator))
    assert [line["step"] for line in lines(path)] == STEPS
    assert all(line.get("scores") for line in lines(path))
    name = "knn/digits/top1@5"
    last = lines(path)[-1]["scores"][name]["value"]
    assert float(trainer.callback_metrics[name]) == pytest.approx(last)
    assert knn(wrap=WRAP)(0, model.net)[name] == last  # pyright: ignore[reportOptionalSubscript]
    table = (Path(trainer.logger.log_dir) / "metrics.csv").read_text()
    assert name in table
    plain = fitted()[1]
    assert all(map(torch.equal, model.state_dict().values(), plain.state_dict().values()))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(pixels).mean((2, 3))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_a_trainer_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
    from transformers import Trainer, TrainingArguments

    torch.manual_seed(0)
    data: Any = [{"pixels": torch.randn(3, 32, 32), "labels": index % 3} for index in range(24)]

    def trained(*callbacks: Any) -> Any:
        torch.manual_seed(0)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=6, per_device_train_batch_size=4, report_to=[],
            use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no",
        )  # fmt: skip
        trainer = Trainer(Classifier(), arguments, train_dataset=data, callbacks=[*callbacks])
        trainer.train()
        return trainer

    path = tmp_path / "live.jsonl"
    evaluator = knn(path, every=2, wrap=of_net)
    trainer = trained(for_transformers(evaluator))
    assert [line["step"] for line in lines(path)] == STEPS
    name = "knn/digits/top1@5"
    history = [row[name] for row in trainer.state.log_history if name in row]
    assert history == [line["scores"][name]["value"] for line in lines(path)]
    model: Any = trainer.model
    assert knn(wrap=WRAP)(0, model.net)[name] == history[-1]  # pyright: ignore[reportOptionalSubscript]
    plain: Any = trained().model
    assert all(map(torch.equal, model.state_dict().values(), plain.state_dict().values()))
