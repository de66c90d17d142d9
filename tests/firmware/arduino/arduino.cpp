/* Arduino.h on Linux: `sketch PORT` runs the sketch with Serial at 127.0.0.1:PORT until the other end hangs up. */
#include "Arduino.h"

#include <cstdlib>
#include <ctime>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

SerialPort Serial;
static int line;
static const int BUFFER = 64; /* what the serial classes of most cores buffer */

void SerialPort::begin(unsigned long) {
}

int SerialPort::available() {
    int waiting = 0;
    ioctl(line, FIONREAD, &waiting);
    return waiting;
}

int SerialPort::read() {
    uint8_t byte;
    return recv(line, &byte, 1, MSG_DONTWAIT) == 1 ? byte : -1;
}

int SerialPort::availableForWrite() {
    pollfd file = {line, POLLOUT, 0};
    return poll(&file, 1, 0) == 1 && (file.revents & POLLOUT) ? BUFFER : 0;
}

size_t SerialPort::write(const uint8_t *bytes, size_t size) {
    const ssize_t sent = send(line, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent > 0 ? static_cast<size_t>(sent) : 0;
}

unsigned long millis() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<unsigned long>(now.tv_sec) * 1000 + static_cast<unsigned long>(now.tv_nsec / 1000000);
}

int main(int, char **argv) {
    line = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(atoi(argv[1])));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(line, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
        return 1;
    }
    setup();
    for (;;) {
        loop();
        pollfd file = {line, POLLIN, 0};
        uint8_t byte;
        if (poll(&file, 1, 1) == 1 && recv(line, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
            return 0;
        }
    }
}
