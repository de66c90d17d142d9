#include "say.h"

#include <string.h>

#include "line.h"
#include "lwip/def.h"
#include "lwip/ip4_addr.h"

void kf_say(const char *text, uint32_t address, uint16_t port) {
    char line[96] = "net: ";
    char number[IP4ADDR_STRLEN_MAX];
    const ip4_addr_t ip = {address};

    strncat(line, text, 48);
    if (address != KF_SAY_NONE) {
        strcat(line, " ");
        strcat(line, ip4addr_ntoa_r(&ip, number, sizeof number));
    }
    if (port != 0) {
        lwip_itoa(number, sizeof number, port);
        strcat(line, ":");
        strcat(line, number);
    }
    strcat(line, "\r\n");
    (void)kf_line_write((const uint8_t *)line, strlen(line));
}
