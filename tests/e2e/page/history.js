// A thread's messages as `useChat` wants them: what a page shows when it is opened.

const IS_OVER = new Set(['completed', 'failed', 'cancelled', 'expired']);

/** `thread` and `messages` as Turnkeep gives them. Of a turn that goes on only the question is
 * taken: the stream that `useChat` resumes tells the answer from its beginning. */
export function toUIMessages(thread, messages) {
  const told = [];
  for (const message of messages) {
    if (message.role === 'user') {
      told.push({ id: message.id, role: 'user', parts: [{ type: 'text', text: message.content }] });
    } else if (message.turnId !== thread.lastTurnId || IS_OVER.has(thread.lastTurnStatus)) {
      addAnswer(told, message);
    }
  }
  return told;
}

/** Everything a turn says is one message for `useChat`, and has the id of its last row. */
function addAnswer(told, message) {
  let answer = told.at(-1);
  if (answer?.role !== 'assistant' || answer.metadata.turnId !== message.turnId) {
    answer = { role: 'assistant', parts: [], metadata: { turnId: message.turnId } };
    told.push(answer);
  }
  answer.id = message.id;
  if (message.role === 'assistant') answer.parts.push({ type: 'step-start' });
  for (const part of message.rawData.parts) {
    if (part.part_kind === 'text') {
      answer.parts.push({ type: 'text', text: part.content, state: 'done' });
    } else if (part.part_kind === 'thinking') {
      answer.parts.push({ type: 'reasoning', text: part.content, state: 'done' });
    } else if (part.part_kind === 'tool-call') {
      const input = typeof part.args === 'string' ? JSON.parse(part.args) : part.args;
      const type = `tool-${part.tool_name}`;
      answer.parts.push({ type, toolCallId: part.tool_call_id, state: 'input-available', input });
    } else {
      Object.assign(answer.parts.find((call) => call.toolCallId === part.tool_call_id), outcome(part));
    }
  }
}

function outcome(part) {
  const isFine = part.part_kind === 'tool-return' && (part.outcome ?? 'success') === 'success';
  if (isFine) return { state: 'output-available', output: part.content };
  const approval = { id: part.tool_call_id, approved: false, reason: part.content };
  if (part.outcome === 'denied') return { state: 'output-denied', approval };
  return { state: 'output-error', errorText: String(part.content) };
}
