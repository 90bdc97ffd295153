/* The client of the WebSocket rows: each connection sends a message, waits until its echo is whole, and sends the next.
 *
 * It is one thread on level-triggered epoll. Each connection has a mask of its own, drawn from the seed; the payload is
 * ASCII, so that a server has UTF-8 to check. Every byte of an echo is compared with what was sent.
 *
 *     sockets PORT SIZE CONNECTIONS SECONDS SEED      prints how many echoes came, and in how many seconds
 *
 * Exit code 1: a connection ended, a handshake was refused, or an echo differs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

enum { MAX_EVENTS = 256, INPUT = 256 * 1024, HEAD = 4096, MAX_HEADER = 14, PATIENCE = 10000 /* ms without an echo */ };

struct connection {
  int fd;
  uint32_t interest;
  unsigned char *request; /* the masked frame */
  size_t sent, received;
};

static size_t request_size, echo_size;
static unsigned char *echo; /* the frame that must come back */
static unsigned char input[INPUT];

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void must(int succeeded, const char *what) {
  if (!succeeded) { perror(what); exit(1); }
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static uint32_t draw(uint32_t *state) { /* xorshift32 */
  *state ^= *state << 13, *state ^= *state >> 17, *state ^= *state << 5;
  return *state;
}

/* Write a header of RFC 6455, 5.2: a text message in one frame. Gives its size. */
static size_t put_header(unsigned char *frame, size_t size, int masked) {
  int width = size < 126 ? 0 : size < 65536 ? 2 : 8;
  frame[0] = 0x81;
  frame[1] = masked << 7 | (width == 0 ? size : width == 2 ? 126 : 127);
  for (int i = 0; i < width; i++) frame[2 + i] = (uint64_t)size >> 8 * (width - 1 - i);
  return 2 + width;
}

static void make_echo(size_t size, uint32_t *seed) {
  echo = malloc(size + MAX_HEADER);
  must(echo != NULL, "malloc");
  size_t header = put_header(echo, size, 0);
  for (size_t i = 0; i < size; i++) echo[header + i] = ' ' + draw(seed) % 95;
  echo_size = header + size;
}

static void make_request(struct connection *one, size_t size, uint32_t *seed) {
  uint32_t mask = draw(seed);
  one->request = malloc(size + MAX_HEADER);
  must(one->request != NULL, "malloc");
  size_t header = put_header(one->request, size, 1);
  memcpy(one->request + header, &mask, 4);
  for (size_t i = 0; i < size; i++)
    one->request[header + 4 + i] = echo[echo_size - size + i] ^ one->request[header + i % 4];
  request_size = header + 4 + size;
}

static void open_socket(struct connection *one, int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  char head[HEAD] = "";
  size_t size = 0;
  int on = 1;
  one->fd = socket(AF_INET, SOCK_STREAM, 0);
  must(one->fd >= 0 && !connect(one->fd, (struct sockaddr *)&address, sizeof address), "connect");
  must(!setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "setsockopt");
  int length = snprintf(head, HEAD, "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", port);
  must(send(one->fd, head, length, MSG_NOSIGNAL) == length, "send");
  do { /* nothing comes behind the head, since nothing was sent that has an echo */
    ssize_t more = recv(one->fd, head + size, HEAD - 1 - size, 0);
    if (more <= 0) fail("the connection ended before the handshake did");
    head[size += more] = 0;
  } while (!strstr(head, "\r\n\r\n"));
  if (strncmp(head, "HTTP/1.1 101 ", 13)) fail(head);
}

static void watch(int epoll, struct connection *one, int operation, uint32_t interest) {
  struct epoll_event event = {.events = interest, .data.ptr = one};
  if (operation == EPOLL_CTL_MOD && one->interest == interest) return;
  must(!epoll_ctl(epoll, operation, one->fd, &event), "epoll_ctl");
  one->interest = interest;
}

static void send_more(int epoll, struct connection *one) {
  while (one->sent < request_size) {
    ssize_t size = send(one->fd, one->request + one->sent, request_size - one->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) break;
    must(size > 0, "send");
    one->sent += size;
  }
  watch(epoll, one, EPOLL_CTL_MOD, one->sent < request_size ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* Take what has come. 1: the echo is whole. */
static int receive(struct connection *one) {
  ssize_t size = recv(one->fd, input, INPUT, MSG_DONTWAIT);
  if (size < 0 && errno == EAGAIN) return 0;
  if (size <= 0) fail("a connection ended");
  if (one->received + size > echo_size || memcmp(input, echo + one->received, size)) fail("an echo differs");
  one->received += size;
  return one->received == echo_size;
}

int main(int argc, char **argv) {
  if (argc != 6) fail("usage: sockets PORT SIZE CONNECTIONS SECONDS SEED");
  int port = atoi(argv[1]), count = atoi(argv[3]), epoll = epoll_create1(0);
  size_t size = strtoul(argv[2], NULL, 10), echoes = 0;
  double seconds = atof(argv[4]), begin, passed;
  uint32_t seed = strtoul(argv[5], NULL, 10) | 1; /* xorshift stays at nought */
  struct connection *all = calloc(count, sizeof *all);
  struct epoll_event events[MAX_EVENTS];
  must(epoll >= 0 && all != NULL, "epoll_create1");
  make_echo(size, &seed);
  for (int i = 0; i < count; i++) {
    make_request(&all[i], size, &seed);
    open_socket(&all[i], port);
    watch(epoll, &all[i], EPOLL_CTL_ADD, EPOLLIN);
  }
  begin = now();
  for (int i = 0; i < count; i++) send_more(epoll, &all[i]);
  while ((passed = now() - begin) < seconds) {
    int ready = epoll_wait(epoll, events, MAX_EVENTS, PATIENCE);
    if (!ready) fail("no echo comes");
    for (int i = 0; i < ready; i++) {
      struct connection *one = events[i].data.ptr;
      if (events[i].events & EPOLLOUT) send_more(epoll, one);
      if (!(events[i].events & ~EPOLLOUT) || !receive(one)) continue;
      echoes++;
      one->sent = one->received = 0;
      send_more(epoll, one);
    }
  }
  printf("%zu echoes in %.6f s\n", echoes, passed);
  return 0;
}
