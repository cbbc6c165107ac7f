"""A graph whose only node says 50 deltas without a pause and answers with all of them.

No model and no message chunks: `custom` is the stream mode that costs a graph least.
"""

from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import StreamWriter

DELTAS = 50


async def speak(state: MessagesState, writer: StreamWriter) -> dict[str, Any]:
    texts = [f"w{number} " for number in range(DELTAS)]
    for text in texts:
        writer({"delta": text})
    return {"messages": [AIMessage("".join(texts))]}


builder = StateGraph(MessagesState)
builder.add_node("speak", speak)
builder.add_edge(START, "speak")
builder.add_edge("speak", END)
graph = builder.compile()
