"""The command line in a folder of its own, and a real MLflow store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.command_line import Run, here
from tests.training.importers.helpers import USAGE
from training.experiment import quiet


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(here, monkeypatch, capsys)


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an experiment of six traces, logged and judged with the library."""
    with quiet():
        import mlflow
        from mlflow.entities import AssessmentSource

    folder = tmp_path_factory.mktemp("store")
    path = folder / "mlflow.db"
    before = mlflow.get_tracking_uri()
    # The library's own warnings are not the matter of these tests.
    with pytest.MonkeyPatch.context() as patch, quiet():
        patch.chdir(folder)
        patch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
        mlflow.set_tracking_uri(f"sqlite:///{path}")
        mlflow.create_experiment("empty")
        mlflow.set_experiment("production")

        @mlflow.trace(span_type="CHAT_MODEL")
        def chat(messages: list[dict[str, str]], model: str) -> dict[str, str]:
            active = mlflow.get_current_active_span()
            active.set_attribute("mlflow.llm.model", model)
            active.set_attribute("mlflow.chat.tokenUsage", USAGE)
            if messages[-1]["content"] == "Fail":
                raise ValueError("SECRET")
            return {"role": "assistant", "content": "Answer."}

        @mlflow.trace
        def answer(question: str, model: str) -> str:
            metadata = {"cps_router.propensity": "0.25", "mlflow.trace.session": "session-1"}
            mlflow.update_current_trace(metadata=metadata, tags={"cps_router.task": "support"})
            prompt = [{"role": "system", "content": "Be brief."}]
            return chat([*prompt, {"role": "user", "content": question}], model)["content"]

        @mlflow.trace(span_type="TOOL")
        def tool(argument: str) -> str:
            return argument

        human, judge = AssessmentSource("HUMAN", "ann"), AssessmentSource("LLM_JUDGE", "judge")
        ids = []
        for question, model in [
            ("Question 0?", "acme-small"),
            ("Question 1?", "acme-large"),
            ("Question 2?", "acme-small"),
            ("Fail", "acme-small"),
        ]:
            try:
                answer(question, model)
            except ValueError:
                assert question == "Fail"
            ids.append(mlflow.get_last_active_trace_id())
        tool("SECRET")
        chat([{"role": "user", "content": "Question 5?"}], "gpt-5-nano")
        ids.append(mlflow.get_last_active_trace_id())
        for trace_id in (ids[0], ids[1], ids[3], ids[4]):
            mlflow.log_feedback(trace_id=trace_id, name="right", value=True, source=judge)
        mlflow.log_feedback(trace_id=ids[1], name="right", value=False, source=human)
        mlflow.log_feedback(trace_id=ids[1], name="right", value=True, source=judge)
        mlflow.log_feedback(trace_id=ids[1], name="stars", value=4, source=human)
        mlflow.log_expectation(trace_id=ids[2], name="right", value="SECRET", source=human)
        mlflow.set_tracking_uri(before)
    return path
