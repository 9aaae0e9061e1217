/*
 * Genesis and key files: what is made is parsed again, and its digest is the ledger id; a genesis.json that is cut
 * short, wrong or not canonical is refused, and the refusal says what; a key file has its mode, and what is no key is
 * refused.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "pando/header.h"

#include "genesis.h"

#define K0 "0000000000000000000000000000000000000000000000000000000000000001"
#define GENESIS(ledger, modules, nonce, signers, window)                                                               \
    "{\"format\":1,\"ledger\":" ledger ",\"modules\":" modules ",\"nonce\":" nonce ",\"signers\":" signers             \
    ",\"window_ms\":" window "}\n"
#define NONCE "\"000102030405060708090a0b0c0d0e0f\""

START_TEST(genesis_round_trip)
{
    uint8_t signer[32] = {[31] = 1}, nonce[16], digest[32];
    for (uint8_t i = 0; i < 16; i++)
        nonce[i] = i;
    struct genesis made, parsed, other;
    ck_assert_int_eq(genesis_make("a \"b\" \xc3\xa9", signer, 600000, nonce, &made), ENG_OK);
    ck_assert_str_eq(made.json, GENESIS("\"a \\\"b\\\" \xc3\xa9\"", "[]", NONCE, "[\"" K0 "\"]", "600000"));
    ck_assert_uint_eq(made.json_bytes, strlen(made.json));
    header_hash("pando genesis", made.json, made.json_bytes, digest);
    ck_assert_mem_eq(made.ledger_id, digest, 32);
    ck_assert_int_eq(genesis_parse(made.json, made.json_bytes, &parsed), ENG_OK);
    ck_assert_str_eq(parsed.ledger, made.ledger);
    ck_assert_str_eq(parsed.json, made.json);
    ck_assert_mem_eq(parsed.ledger_id, made.ledger_id, 32);
    ck_assert_mem_eq(parsed.nonce, nonce, 16);
    ck_assert_uint_eq(parsed.signer_count, 1);
    ck_assert_mem_eq(parsed.signers[0], signer, 32);
    ck_assert_uint_eq(parsed.window_ms, 600000);
    for (size_t n = 0; n < made.json_bytes; n++)
        ck_assert_int_eq(genesis_parse(made.json, n, &other), ENG_INVALID);
    genesis_release(&parsed);
    ck_assert_int_eq(genesis_make("x", signer, 1, NULL, &parsed), ENG_OK);
    ck_assert_int_eq(genesis_make("x", signer, 1, NULL, &other), ENG_OK);
    ck_assert_mem_ne(parsed.ledger_id, other.ledger_id, 32);
    genesis_release(&parsed);
    genesis_release(&other);
    genesis_release(&made);
    ck_assert_int_eq(genesis_make("", signer, 1, NULL, &other), ENG_INVALID);
    ck_assert_int_eq(genesis_make("a\nb", signer, 1, NULL, &other), ENG_INVALID);
    ck_assert_int_eq(genesis_make("\xff", signer, 1, NULL, &other), ENG_INVALID);
    ck_assert_int_eq(genesis_make("x", signer, 0, NULL, &other), ENG_INVALID);
    ck_assert_int_eq(
        genesis_make("12345678901234567890123456789012345678901234567890123456789012345", signer, 1, NULL, &other),
        ENG_INVALID);
}
END_TEST

static const struct {
    const char *json, *part; /* of the line */
    enum eng_status status;
} refused_genesis[] = {
    {"", "not JSON", ENG_INVALID},
    {"[]\n", "not an object", ENG_INVALID},
    {"{\"format\":2}\n", "format 2 is newer", ENG_VERSION},
    {"{\"format\":1}\n", "1 keys", ENG_INVALID},
    {GENESIS("5", "[]", NONCE, "[\"" K0 "\"]", "1"), "ledger", ENG_INVALID},
    {GENESIS("\"x\"", "{}", NONCE, "[\"" K0 "\"]", "1"), "modules", ENG_INVALID},
    {GENESIS("\"x\"", "[\"accounts\"]", NONCE, "[\"" K0 "\"]", "1"), "this version does not have modules", ENG_INVALID},
    {GENESIS("\"x\"", "[]", "\"00\"", "[\"" K0 "\"]", "1"), "nonce", ENG_INVALID},
    {GENESIS("\"x\"", "[]", NONCE, "[]", "1"), "signers", ENG_INVALID},
    {GENESIS("\"x\"", "[]", NONCE, "[\"00\"]", "1"), "signers", ENG_INVALID},
    {GENESIS("\"x\"", "[]", NONCE, "[\"" K0 "\",\"" K0 "\"]", "1"), "the same key twice", ENG_INVALID},
    {GENESIS("\"x\"", "[]", NONCE, "[\"" K0 "\"]", "0"), "window_ms", ENG_INVALID},
    {GENESIS("\"x\"", "[]", NONCE, "[\"" K0 "\"]", "\"1\""), "window_ms", ENG_INVALID},
    {GENESIS("\"x\"", "[]", NONCE, "[\"" K0 "\"]", "99999999999999"), "window_ms", ENG_INVALID},
    {GENESIS("\"x\"", "[]", NONCE, "[\"" K0 "\"]", "1,\"window_ms\":1"), "not JSON", ENG_INVALID},
    {GENESIS("\"x\"", "[]", NONCE, "[\"" K0 "\"]", "1,\"z\":1"), "7 keys", ENG_INVALID},
    {GENESIS("\"x\"", "[]", NONCE, "[\"" K0 "\"]", "1") "\n", "canonical", ENG_INVALID},
    {GENESIS("\"x\"", "[ ]", NONCE, "[\"" K0 "\"]", "1"), "canonical", ENG_INVALID},
    {GENESIS("\"\\u0078\"", "[]", NONCE, "[\"" K0 "\"]", "1"), "canonical", ENG_INVALID},
    {GENESIS("\"x\"", "[]", "\"000102030405060708090A0B0C0D0E0F\"", "[\"" K0 "\"]", "1"), "canonical", ENG_INVALID},
};

START_TEST(genesis_refusals)
{
    struct genesis genesis;
    const char *json = refused_genesis[_i].json;
    ck_assert_msg(genesis_parse(json, strlen(json), &genesis) == refused_genesis[_i].status, "%s: %s", json,
                  eng_error());
    ck_assert_msg(strstr(eng_error(), refused_genesis[_i].part) != NULL, "%s: %s", json, eng_error());
    ck_assert_ptr_null(genesis.json);
}
END_TEST

static void write_file(const char *path, const char *text, mode_t mode)
{
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
    ck_assert_int_eq(chmod(path, mode), 0);
}

START_TEST(key_files)
{
    char directory[] = "/tmp/pando-key-XXXXXX", path[64];
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/node.key", directory);
    uint8_t public_key[32], secret[64], public_again[32], secret_again[64];
    ck_assert_int_eq(key_file_read(path, public_key, secret), ENG_NOT_FOUND);
    ck_assert_int_eq(key_file_create(path, public_key, secret), ENG_OK);
    struct stat info;
    ck_assert_int_eq(stat(path, &info), 0);
    ck_assert_int_eq(info.st_mode & 07777, 0600);
    ck_assert_int_eq(info.st_size, 65);
    ck_assert_int_eq(key_file_create(path, public_again, secret_again), ENG_EXISTS);
    ck_assert_int_eq(key_file_read(path, public_again, secret_again), ENG_OK);
    ck_assert_mem_eq(public_again, public_key, 32);
    ck_assert_mem_eq(secret_again, secret, 64);
    ck_assert_mem_eq(secret + 32, public_key, 32);
    ck_assert_int_eq(chmod(path, 0640), 0);
    ck_assert_int_eq(key_file_read(path, public_again, secret_again), ENG_INVALID);
    ck_assert_ptr_nonnull(strstr(eng_error(), "0640"));
    static const char *const wrong[] = {"", K0, K0 "\n\n", K0 "0\n", "z" K0 "\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        write_file(path, wrong[i], 0600);
        ck_assert_int_eq(key_file_read(path, public_again, secret_again), ENG_DAMAGED);
    }
    write_file(path, K0 "\n", 0600);
    ck_assert_int_eq(key_file_read(path, public_again, secret_again), ENG_OK);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(key_file_read(directory, public_again, secret_again), ENG_INVALID);
    ck_assert_int_eq(rmdir(directory), 0);
    ck_assert_int_eq(key_file_create(path, public_again, secret_again), ENG_NOT_FOUND);
}
END_TEST

int main(void)
{
    if (sodium_init() < 0)
        return EXIT_FAILURE;
    Suite *suite = suite_create("genesis");
    TCase *cases = tcase_create("genesis");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, genesis_round_trip);
    tcase_add_loop_test(cases, genesis_refusals, 0, sizeof refused_genesis / sizeof *refused_genesis);
    tcase_add_test(cases, key_files);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
