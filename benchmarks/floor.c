/* The floor: what the kernel alone costs a server that answers one request with one recv and one send.
 *
 * An edge-triggered epoll responder that knows no HTTP: input that ends with an empty line gets the same bytes, as many
 * as hypoll's answer to the same request has. Requests that come in pieces or behind one another, timeouts and limits
 * are not its business. Whatever hypoll costs beyond this is hypoll's own.
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

enum { MAX_EVENTS = 512, BACKLOG = 4096 };

static const char answer[] =
    "HTTP/1.1 200 OK\r\nServer: hypoll\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    "Content-Type: application/json\r\nContent-Length: 27\r\n\r\n{\"message\":\"Hello, World!\"}";

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

static void respond(int fd) {
  static char input[64 * 1024];
  ssize_t size = recv(fd, input, sizeof input, 0);
  if (size == 0 || (size < 0 && errno != EAGAIN)) close(fd);
  if (size >= 4 && !memcmp(input + size - 4, "\r\n\r\n", 4)) send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
}

int main(int argc, char **argv) {
  int level = argc > 1 && !strcmp(argv[1], "level"), epoll = epoll_create1(0), listener = listen_on_a_free_port(), fd;
  uint32_t interest = level ? EPOLLIN | EPOLLRDHUP : EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  struct epoll_event events[MAX_EVENTS];
  must(epoll >= 0, "epoll_create1");
  watch(epoll, listener, EPOLLIN | EPOLLET);
  for (;;) {
    int count = epoll_wait(epoll, events, MAX_EVENTS, -1);
    for (int i = 0; i < count; i++) {
      if (events[i].data.fd != listener) {
        if (events[i].events & EPOLLIN) respond(events[i].data.fd);
        continue;
      }
      while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) watch(epoll, fd, interest);
    }
  }
}
