// Two users talk over JSON frames with the `ws` library alone; prints what each saw as one JSON object.
'use strict';
const WebSocket = require('ws');
const [url, aliceToken, bobToken, bobId] = process.argv.slice(2);

const open = (token) => {
  const socket = new WebSocket(`${url}?token=${token}`, 'hither.v1.json');
  const kept = [];
  const waits = [];
  socket.on('message', (data) => {
    const frame = JSON.parse(data.toString());
    const index = waits.findIndex((wait) => wait.fits(frame));
    if (index >= 0) waits.splice(index, 1)[0].resolve(frame);
    else kept.push(frame);
  });
  socket.on('error', (error) => { console.error(error); process.exit(1); });
  return {
    send: (frame) => socket.send(JSON.stringify(frame)),
    next: (fits) => {
      const index = kept.findIndex(fits);
      if (index >= 0) return Promise.resolve(kept.splice(index, 1)[0]);
      return new Promise((resolve) => waits.push({ fits, resolve }));
    },
    close: () => socket.close(1000),
  };
};
const type = (name) => (frame) => frame.type === name;

(async () => {
  const alice = open(aliceToken);
  const bob = open(bobToken);
  await Promise.all([alice, bob].map((one) => one.next(type('synced'))));
  alice.send({ type: 'send_message', id: '1', to: bobId, client_id: 'ws-1', text: 'from a foreign client' });
  const ack = await alice.next((frame) => frame.id === '1');
  const message = await bob.next(type('message'));
  bob.send({ type: 'received', pos: message.pos });
  bob.send({ type: 'mark_read', id: '2', conversation_id: ack.conversation_id, seq: message.message.seq });
  await bob.next((frame) => frame.id === '2' && frame.type === 'ok');
  const seen = await alice.next((frame) => frame.type === 'message_status' && frame.status === 'SEEN');
  bob.send({ type: 'history', id: '3', conversation_id: ack.conversation_id, limit: 10 });
  const page = await bob.next((frame) => frame.id === '3');
  bob.send({ type: 'ping', timestamp: 1790000000000 });
  const pong = await bob.next(type('pong'));
  bob.send({ type: 'dance', id: '4' });
  const error = await bob.next((frame) => frame.id === '4');
  alice.close();
  bob.close();
  console.log(JSON.stringify({ ack, message, seen, page, pong, error }));
})();
