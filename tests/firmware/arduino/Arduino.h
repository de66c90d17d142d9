/* The part of the plain Arduino API that the library's example uses, over a TCP connection. */
#pragma once
#include <stddef.h>
#include <stdint.h>

class Stream {
public:
    virtual int available() = 0;
    virtual int read() = 0;
    virtual int availableForWrite() = 0;
    virtual size_t write(const uint8_t *bytes, size_t size) = 0;
};

class SerialPort final : public Stream {
public:
    void begin(unsigned long baud);
    int available() override;
    int read() override;
    int availableForWrite() override;
    size_t write(const uint8_t *bytes, size_t size) override;
};

extern SerialPort Serial;
unsigned long millis();
void setup();
void loop();
