// A chat as a product's own page has it: sign in, then `useChat` on one thread of Turnkeep.

import { Chat, useChat } from '@ai-sdk/react';
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses } from 'ai';
import { useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { toUIMessages } from './history.js';

const CHAT = '/api/v1/chat';
const JSON_TYPE = { 'content-type': 'application/json' };
const root = createRoot(document.getElementById('root'));

function post(path, body) {
  return fetch(path, { method: 'POST', headers: JSON_TYPE, body: JSON.stringify(body) });
}

/** `onNothing` is called when nothing is there to resume. */
function transportOf(threadId, onNothing) {
  const thread = `${CHAT}/threads/${threadId}`;
  return new DefaultChatTransport({
    api: `${thread}/turns/stream`,
    prepareReconnectToStreamRequest: () => ({ api: `${thread}/stream` }),
    async fetch(url, init) {
      const answer = await fetch(url, init);
      if (answer.status === 204) onNothing();
      return answer;
    },
  });
}

async function load(threadId) {
  const path = `${CHAT}/threads/${threadId}`;
  const thread = await (await fetch(path)).json();
  const messages = await (await fetch(`${path}/messages?limit=200`)).json();
  return toUIMessages(thread, messages.items);
}

/** A thread's chat. Given as a whole, since `useChat` of the 6 line hides from a chat that it makes
    itself that a resumed stream tells the answer from its beginning. */
function makeChat(threadId, initial, onNews) {
  let isSentAway = false;
  let comesAgain = false;
  const comeAgain = () => {
    if (comesAgain) setTimeout(chat.resumeStream, 300);
  };
  const chat = new Chat({
    id: threadId,
    messages: initial,
    // What was going on when the page was loaded may have ended before it could be resumed.
    transport: transportOf(threadId, async () => {
      chat.messages = await load(threadId);
    }),
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
    onData(part) {
      isSentAway ||= part.type === 'data-turn-reconnect';
      onNews(`${part.type} ${JSON.stringify(part.data)}`);
    },
    onFinish() {
      comesAgain = isSentAway;
      isSentAway = false;
      comeAgain();
    },
    onError: comeAgain,
  });
  return chat;
}

function Thread({ threadId, initial }) {
  const [news, setNews] = useState([]);
  const [held] = useState(() => makeChat(threadId, initial,
    (line) => setNews((known) => [...known, line])));
  const chat = useChat({ chat: held, resume: true });
  const form = useRef(null);

  // What goes with the next message: the model and what it is to do.
  const options = () => ({ body: JSON.parse(form.current.elements.body.value || '{}') });
  const send = (event) => {
    event.preventDefault();
    const { text, files } = form.current.elements;
    chat.sendMessage({ text: text.value, files: files.files }, options());
    text.value = files.value = '';
  };
  const stopTurn = async () => {
    await chat.stop();
    let partialText = null;
    chat.setMessages((messages) => {
      partialText = textOf(messages.at(-1));
      return messages;
    });
    await post(`${CHAT}/threads/${threadId}/turns/cancel`, { partialText });
  };

  return (
    <main data-status={chat.status}>
      <form ref={form} onSubmit={send}>
        <textarea name="body" />
        <input name="text" placeholder="Message" />
        <input name="files" type="file" multiple />
        <button>Send</button>
        <button type="button" onClick={stopTurn}>Stop</button>
        <button type="button" onClick={() => chat.stop()}>Look away</button>
        <button type="button" onClick={() => chat.resumeStream()}>Resume</button>
        <button type="button" onClick={() => chat.regenerate(options())}>Retry</button>
      </form>
      {chat.messages.map((message) => (
        <article key={message.id} data-id={message.id} data-role={message.role}
          data-turn={message.metadata?.turnId} data-metadata={JSON.stringify(message.metadata)}>
          {message.parts.map((part, index) => (
            <Part key={index} part={part} decide={chat.addToolApprovalResponse} />
          ))}
          {message.role === 'assistant' && (
            <button onClick={() => chat.regenerate({ messageId: message.id, ...options() })}>
              Again
            </button>
          )}
        </article>
      ))}
      {chat.error && <p id="error">{chat.error.message}</p>}
      <p id="news">{news.join('\n')}</p>
    </main>
  );
}

function textOf(message) {
  if (message?.role !== 'assistant') return null;
  return message.parts.filter((part) => part.type === 'text').map((part) => part.text).join('');
}

function Part({ part, decide }) {
  const { id } = part.approval ?? {};
  return (
    <section data-type={part.type} data-state={part.state} data-call={part.toolCallId}
      data-input={JSON.stringify(part.input)} data-output={JSON.stringify(part.output)}>
      {part.text ?? part.errorText ?? part.filename}
      {part.data && JSON.stringify(part.data)}
      {part.type.startsWith('tool-') && ` ${part.type.slice(5)}: ${part.state}`}
      {part.state === 'approval-requested' && (
        <span>
          <button onClick={() => decide({ id, approved: true })}>Approve</button>
          <button onClick={() => decide({ id, approved: false, reason: 'too dear' })}>Deny</button>
        </span>
      )}
    </section>
  );
}

function SignIn() {
  const [problem, setProblem] = useState('');
  const signIn = async (event) => {
    event.preventDefault();
    const { email, password } = event.target.elements;
    const answer = await post('/api/v1/auth/login', { email: email.value, password: password.value });
    if (answer.ok) await open();
    else setProblem(`${answer.status} ${(await answer.json()).detail}`);
  };
  return (
    <form id="sign-in" onSubmit={signIn}>
      <input name="email" />
      <input name="password" type="password" />
      <button>Sign in</button>
      <p id="error">{problem}</p>
    </form>
  );
}

async function open() {
  const me = await fetch('/api/v1/auth/me');
  if (me.status === 401) return root.render(<SignIn />);
  const url = new URL(location.href);
  let threadId = url.searchParams.get('thread');
  if (!threadId) {
    threadId = (await (await post(`${CHAT}/threads`, {})).json()).id;
    url.searchParams.set('thread', threadId);
    history.replaceState(null, '', url);
  }
  const initial = await load(threadId);
  root.render(<Thread key={threadId} threadId={threadId} initial={initial} />);
}

open();
