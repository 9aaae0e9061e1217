/*
 * How entries are printed.
 *
 *     text   KEY TAB VALUE      as they are when printable UTF-8, else 0x...; amounts in decimal
 *     hex    HEXKEY HEXVALUE    lower case; amounts as amount:N
 *     json   {"key":...,"value":...}; key_hex and value_hex where the bytes are not UTF-8; "amount":N
 *
 * A line is put together in one buffer and written at once: a scan prints hundreds of thousands of lines a second. Text
 * that would read as something else on the way back (0x..., hex:...) is printed in hex, so that what text shows can be
 * given to get. A removed entry (diff) has its key only.
 *
 * Ways to fail: none here; a failed write is found by cli_flush at the end.
 */
#include "cli.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static char *room(struct cli_printer *printer, size_t size)
{
    if (size > printer->capacity - printer->size) {
        size_t capacity = (printer->size + size) * 2;
        char *text = realloc(printer->text, capacity);
        if (!text) {
            cli_say(CLI_UNABLE, "standard output: out of memory for a line of %zu bytes", printer->size + size);
            exit(CLI_UNABLE);
        }
        printer->text = text;
        printer->capacity = capacity;
    }
    return printer->text + printer->size;
}

static void put_bytes(struct cli_printer *printer, const void *bytes, size_t size)
{
    char *at = room(printer, size + 1);
    if (size)
        memcpy(at, bytes, size);
    printer->size += size;
}

static void put_text(struct cli_printer *printer, const char *text)
{
    put_bytes(printer, text, strlen(text));
}

static void put_hex(struct cli_printer *printer, const uint8_t *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    char *at = room(printer, 2 * size + 1);
    for (size_t i = 0; i < size; i++) {
        at[2 * i] = digits[bytes[i] >> 4];
        at[2 * i + 1] = digits[bytes[i] & 15];
    }
    printer->size += 2 * size;
}

/* Length of the UTF-8 character at bytes (shortest form, no surrogates, at most 10FFFF), 0 if there is none. */
static size_t utf8_character(const uint8_t *bytes, size_t size)
{
    uint8_t first = bytes[0];
    if (first < 0x80)
        return 1;
    size_t length = first >= 0xc2 && first <= 0xdf   ? 2
                    : (first & 0xf0) == 0xe0         ? 3
                    : first >= 0xf0 && first <= 0xf4 ? 4
                                                     : 0;
    if (length == 0 || length > size)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
    if ((first == 0xe0 && bytes[1] < 0xa0) || (first == 0xed && bytes[1] > 0x9f) ||
        (first == 0xf0 && bytes[1] < 0x90) || (first == 0xf4 && bytes[1] > 0x8f))
        return 0;
    return length;
}

/* controls: whether C0, DEL and C1 are let through. */
static bool is_utf8(const uint8_t *bytes, size_t size, bool controls)
{
    for (size_t i = 0; i < size;) {
        size_t length = utf8_character(bytes + i, size - i);
        if (length == 0)
            return false;
        bool control = bytes[i] < 0x20 || bytes[i] == 0x7f || (length == 2 && bytes[i] == 0xc2 && bytes[i + 1] < 0xa0);
        if (control && !controls)
            return false;
        i += length;
    }
    return true;
}

bool cli_printable(const uint8_t *bytes, size_t size)
{
    if ((size >= 2 && memcmp(bytes, "0x", 2) == 0) || (size >= 4 && memcmp(bytes, "hex:", 4) == 0))
        return false;
    return is_utf8(bytes, size, false);
}

static void put_field(struct cli_printer *printer, const uint8_t *bytes, size_t size)
{
    if (cli_printable(bytes, size)) {
        put_bytes(printer, bytes, size);
        return;
    }
    put_text(printer, "0x");
    put_hex(printer, bytes, size);
}

static void put_amount(struct cli_printer *printer, const struct eng_value *value)
{
    char text[AMOUNT_TEXT_MAX];
    assert(value->size == 16);
    amount_to_text(amount_from_bytes(value->bytes), text);
    put_text(printer, text);
}

/* "name":"..." or "name_hex":"..." */
static void put_json_field(struct cli_printer *printer, const char *name, const uint8_t *bytes, size_t size)
{
    bool text = is_utf8(bytes, size, true);
    put_text(printer, "\"");
    put_text(printer, name);
    put_text(printer, text ? "\":\"" : "_hex\":\"");
    if (!text)
        put_hex(printer, bytes, size);
    for (size_t i = 0, plain = 0; text && i <= size; i++) {
        if (i < size && bytes[i] >= 0x20 && bytes[i] != '"' && bytes[i] != '\\' && bytes[i] != 0x7f)
            continue;
        put_bytes(printer, bytes + plain, i - plain);
        plain = i + 1;
        if (i < size) {
            char escape[8];
            if (bytes[i] == '"' || bytes[i] == '\\')
                snprintf(escape, sizeof escape, "\\%c", bytes[i]);
            else
                snprintf(escape, sizeof escape, "\\u%04x", bytes[i]);
            put_text(printer, escape);
        }
    }
    put_text(printer, "\"");
}

static void put_json_value(struct cli_printer *printer, const struct eng_value *value)
{
    if (value->tag == ENG_AMOUNT) {
        put_text(printer, "\"amount\":");
        put_amount(printer, value);
    } else {
        put_json_field(printer, "value", value->bytes, value->size);
    }
}

static void put_hex_value(struct cli_printer *printer, const struct eng_value *value)
{
    if (value->tag == ENG_AMOUNT) {
        put_text(printer, "amount:");
        put_amount(printer, value);
    } else {
        put_hex(printer, value->bytes, value->size);
    }
}

static void put_text_value(struct cli_printer *printer, const struct eng_value *value)
{
    if (value->tag == ENG_AMOUNT)
        put_amount(printer, value);
    else
        put_field(printer, value->bytes, value->size);
}

static void end_line(struct cli_printer *printer)
{
    put_text(printer, "\n");
    fwrite(printer->text, 1, printer->size, stdout);
    printer->size = 0;
}

/* with_value false: a removed entry. */
static void put_entry(struct cli_printer *printer, const struct protocol_entry *entry, bool with_value)
{
    switch (printer->format) {
    case CLI_TEXT:
        put_field(printer, entry->key, entry->key_bytes);
        if (with_value) {
            put_text(printer, "\t");
            put_text_value(printer, &entry->value);
        }
        return;
    case CLI_HEX:
        put_hex(printer, entry->key, entry->key_bytes);
        if (with_value) {
            put_text(printer, " ");
            put_hex_value(printer, &entry->value);
        }
        return;
    case CLI_JSON:
        put_json_field(printer, "key", entry->key, entry->key_bytes);
        if (with_value) {
            put_text(printer, ",");
            put_json_value(printer, &entry->value);
        }
        return;
    }
}

void cli_print_entry(struct cli_printer *printer, const struct protocol_entry *entry)
{
    bool json = printer->format == CLI_JSON;
    if (json)
        put_text(printer, "{");
    put_entry(printer, entry, true);
    if (json)
        put_text(printer, "}");
    end_line(printer);
}

void cli_print_value(struct cli_printer *printer, const struct protocol_entry *entry)
{
    switch (printer->format) {
    case CLI_TEXT:
        put_text_value(printer, &entry->value);
        end_line(printer);
        return;
    case CLI_HEX:
        put_hex_value(printer, &entry->value);
        end_line(printer);
        return;
    case CLI_JSON:
        cli_print_entry(printer, entry);
        return;
    }
}

void cli_print_change(struct cli_printer *printer, enum protocol_change change, const struct protocol_entry *entry)
{
    static const char signs[] = {[CHANGE_REMOVED] = '-', [CHANGE_ADDED] = '+', [CHANGE_REPLACED] = '~'};
    const char sign[2] = {signs[change], 0};
    bool json = printer->format == CLI_JSON;
    put_text(printer, json ? "{\"change\":\"" : "");
    put_text(printer, sign);
    put_text(printer, json ? "\"," : " ");
    put_entry(printer, entry, change != CHANGE_REMOVED);
    if (json)
        put_text(printer, "}");
    end_line(printer);
}

void cli_print_field(struct cli_printer *printer, const uint8_t *bytes, size_t size)
{
    put_field(printer, bytes, size);
    fwrite(printer->text, 1, printer->size, stdout);
    printer->size = 0;
}

void cli_printer_release(struct cli_printer *printer)
{
    free(printer->text);
    *printer = (struct cli_printer){0};
}
