/* The floor: what the kernel alone costs a server that does the same work.
 *
 * An edge-triggered epoll responder that knows of HTTP only where a head ends, what its Content-Length is, and whether it
 * says `Connection: close`. Bodies are read away, a connection is read once when it is accepted, requests that came
 * together are answered with one send, and the last answer of a connection is followed by a close. The answer is as long
 * as hypoll's to the same request. Heads in pieces, timeouts and limits are not its business. Whatever hypoll costs
 * beyond this is hypoll's own.
 *
 *     floor [level]      listens on a free port of 127.0.0.1 and prints its URL
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
#include <unistd.h>

enum { MAX_EVENTS = 512, BACKLOG = 4096, INPUT = 256 * 1024, DESCRIPTORS = 65536, TOGETHER = 256 };

static const char answer[] =
    "HTTP/1.1 200 OK\r\nServer: hypoll\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    "Content-Type: application/json\r\nContent-Length: 27\r\n\r\n{\"message\":\"Hello, World!\"}";

enum { SIZE = sizeof answer - 1 };

static char input[INPUT], answers[TOGETHER * SIZE];
static size_t missing[DESCRIPTORS]; /* bytes of a body still to come, by descriptor */
static char ends[DESCRIPTORS];      /* whether the request that they are of is the connection's last */

static void must(int succeeded, const char *what) {
  if (!succeeded) { perror(what); exit(1); }
}

static void watch(int epoll, int fd, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  must(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

static int listen_on_a_free_port(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  must(listener >= 0, "socket");
  must(!setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "setsockopt"); /* accepted ones inherit it */
  must(!bind(listener, (struct sockaddr *)&address, size) && !listen(listener, BACKLOG), "listen");
  must(!getsockname(listener, (struct sockaddr *)&address, &size), "getsockname");
  printf("http://127.0.0.1:%d\n", ntohs(address.sin_port));
  fflush(stdout);
  return listener;
}

/* Answer what a read brought. 0: the connection is closed. */
static int answer_all(int fd, const char *data, size_t size) {
  int count = 0;
  while (size) {
    if (missing[fd]) {
      size_t taken = missing[fd] < size ? missing[fd] : size;
      missing[fd] -= taken, data += taken, size -= taken;
      if (missing[fd]) break;
    } else {
      const char *end = memmem(data, size, "\r\n\r\n", 4), *length, *close;
      if (!end) break;
      length = memmem(data, end - data, "Content-Length: ", 16);
      close = memmem(data, end - data, "Connection: close", 17);
      missing[fd] = length ? strtoul(length + 16, NULL, 10) : 0;
      ends[fd] = close != NULL;
      size -= end + 4 - data, data = end + 4;
      if (missing[fd]) continue;
    }
    count++;
    if (count == TOGETHER || ends[fd]) break;
  }
  if (count) send(fd, answers, count * SIZE, MSG_NOSIGNAL);
  if (!count || !ends[fd]) return 1;
  ends[fd] = 0;
  close(fd);
  return 0;
}

/* Read until the socket is drained. 0: the connection is closed. */
static int respond(int fd) {
  for (;;) {
    ssize_t size = recv(fd, input, INPUT, 0);
    if (size > 0) {
      if (!answer_all(fd, input, size)) return 0;
      if (size == INPUT) continue;
      return 1;
    }
    if (size < 0 && errno == EAGAIN) return 1;
    missing[fd] = ends[fd] = 0;
    close(fd);
    return 0;
  }
}

int main(int argc, char **argv) {
  int level = argc > 1 && !strcmp(argv[1], "level"), epoll = epoll_create1(0), listener = listen_on_a_free_port(), fd;
  uint32_t interest = level ? EPOLLIN | EPOLLRDHUP : EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  struct epoll_event events[MAX_EVENTS];
  must(epoll >= 0, "epoll_create1");
  for (int i = 0; i < TOGETHER; i++) memcpy(answers + i * SIZE, answer, SIZE);
  watch(epoll, listener, EPOLLIN | EPOLLET);
  for (;;) {
    int count = epoll_wait(epoll, events, MAX_EVENTS, -1);
    for (int i = 0; i < count; i++) {
      if (events[i].data.fd != listener) {
        if (events[i].events & EPOLLIN) respond(events[i].data.fd);
        continue;
      }
      while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
        if (respond(fd)) watch(epoll, fd, interest);
    }
  }
}
