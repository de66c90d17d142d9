/* Reads packets from stdin, each a u16 length and its bytes, and prints what kf_mdns_parse() makes of them: ADDRESS:PORT, or -.
 * Each lies in a block of exactly its size, so that the sanitizer sees a read beyond it. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#include "mdns.h"

int main(void) {
    uint8_t length[2];

    while (fread(length, 1, 2, stdin) == 2) {
        const size_t size = (size_t)(length[0] | length[1] << 8);
        uint8_t *packet = malloc(size > 0 ? size : 1);
        struct sockaddr_in found;
        char text[INET_ADDRSTRLEN];

        if (packet == NULL || fread(packet, 1, size, stdin) != size) {
            return 1;
        }
        if (kf_mdns_parse(packet, size, &found)) {
            inet_ntop(AF_INET, &found.sin_addr, text, sizeof text);
            printf("%s:%u\n", text, ntohs(found.sin_port));
        } else {
            puts("-");
        }
        free(packet);
    }
    return 0;
}
