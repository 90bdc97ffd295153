"""A chat in rooms, with its page: `hypoll chat:routes`, then http://127.0.0.1:8000/.

Who connects to a room is told who is there; what is said goes to all in it; a page whose connection ends, by a
restart of the server, too, connects again by itself.
"""

from hypoll import Request, Response, Routes, html, redirect
from hypoll.websocket import Hub, Socket

routes = Routes()
hub = Hub(slow="close")

LONGEST = 2000
"""Characters that may be said at once."""


@routes.get("/")
def lobby(request: Request) -> Response:
    return redirect(routes.url_for("room", room="lobby"))


@routes.get("/rooms/{room}", name="room")
def page(request: Request, room: str) -> Response:
    return html(PAGE)


@routes.websocket("/rooms/{room}/talk")
async def talk(socket: Socket, room: str) -> None:
    name = socket.request.query.get("name", "somebody")[:40]
    hub.join(room, socket)
    hub.publish_json(room, {"event": "joined", "name": name, "members": hub.members(room)})
    try:
        async for message in socket:
            text = str(message).strip()[:LONGEST]
            if text:
                hub.publish_json(room, {"event": "said", "name": name, "text": text})
    finally:
        hub.leave(room, socket)
        hub.publish_json(room, {"event": "left", "name": name, "members": hub.members(room)})


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Chat</title>
<link rel="icon" href="data:,">
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 2em auto; padding: 0 1em; color: #222; }
  header { display: flex; justify-content: space-between; align-items: baseline; border-bottom: 1px solid #ddd; }
  ol { list-style: none; padding: 0; min-height: 16em; }
  .note { color: #888; font-style: italic; }
  b { color: #0a5; margin-right: .5em; }
  form { display: flex; gap: .5em; }
  input { flex: 1; font: inherit; padding: .4em; }
  button { font: inherit; }
</style>
<header><h1 id="room"></h1><span id="state" class="note">connecting</span></header>
<ol id="log"></ol>
<form><input id="text" placeholder="Say something" autocomplete="off" autofocus><button>Send</button></form>
<script>
const $ = id => document.getElementById(id);
const query = new URLSearchParams(location.search);
const name = query.get("name") || "guest " + Math.floor(Math.random() * 1000);
let socket, pause = 0.5;

function show(kind, text, who) {
  const line = document.createElement("li");
  line.className = kind;
  if (who) line.append(Object.assign(document.createElement("b"), { textContent: who }));
  line.append(text);  // as text: what somebody says is never markup
  $("log").append(line);
  line.scrollIntoView();
}

function connect() {
  const url = new URL(location.pathname + "/talk", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.searchParams.set("name", name);
  socket = new WebSocket(url);
  socket.onopen = () => { $("state").textContent = "connected"; pause = 0.5; };
  socket.onmessage = ({ data }) => {
    const it = JSON.parse(data);
    if (it.event === "said") show("said", it.text, it.name);
    else show("note", `${it.name} has ${it.event}; ${it.members} here`);
  };
  socket.onclose = () => {
    // Longer from try to try, and different from page to page: a server that is back isn't run over by all at once.
    $("state").textContent = "connecting again";
    setTimeout(connect, 1000 * pause * (0.5 + Math.random()));
    pause = Math.min(2 * pause, 30);
  };
}

$("room").textContent = decodeURIComponent(location.pathname.split("/")[2]);
document.forms[0].onsubmit = event => {
  event.preventDefault();
  if ($("text").value && socket.readyState === WebSocket.OPEN) { socket.send($("text").value); $("text").value = ""; }
};
connect();
</script>
</html>
"""
