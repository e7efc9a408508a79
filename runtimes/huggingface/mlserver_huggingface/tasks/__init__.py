"""Pipelines for tasks that newer releases of transformers have given up, but folders of models still name.

Each is called as transformers called its own, and answers in the same form. What is installed decides which
task needs one.
"""

from __future__ import annotations

from typing import Any

from mlserver_huggingface.tasks.base import TaskPipeline
from mlserver_huggingface.tasks.conversational import ConversationalPipeline
from mlserver_huggingface.tasks.question_answering import QuestionAnsweringPipeline
from mlserver_huggingface.tasks.text2text import Text2TextPipeline
from mlserver_huggingface.tasks.visual_question_answering import VisualQuestionAnsweringPipeline

__all__ = ["OWN_TASKS", "TaskPipeline", "own_pipeline"]

OWN_TASKS: dict[str, type[TaskPipeline]] = {
    "conversational": ConversationalPipeline,
    "question-answering": QuestionAnsweringPipeline,
    "summarization": Text2TextPipeline,
    "text2text-generation": Text2TextPipeline,
    "translation": Text2TextPipeline,
    "visual-question-answering": VisualQuestionAnsweringPipeline,
}


def own_pipeline(task: str) -> Any:
    """Our pipeline class for a task, which may have a suffix such as `translation_en_to_fr`; None without."""
    return OWN_TASKS.get("translation" if task.startswith("translation_") else task)
