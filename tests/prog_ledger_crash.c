/*
 * Power loss at every disk call of a ledger's life.
 *
 * A ledger is made, takes three blocks (submitted, imported, submitted; or, as a follower, the sealed blocks of
 * another), and is closed, on a simulated disk with a store of 16 KiB segments and log files of 8 KiB. First
 * undisturbed: what each height's header and contents are is written down. Then again, and before every call that
 * changes the disk, several images are taken of what a power loss there could leave. Every image must open, at some
 * height h with
 *
 *     acknowledged before the loss  <=  h  <=  begun before the loss
 *
 * and have, up to h, the very same headers, and at h the very same contents; a resubmitted acknowledged transaction
 * must get its first receipt; and a block more must be possible. Some images are hit by a second loss while they
 * recover.
 *
 * prog_ledger_crash [--long | IMAGES]: about 10,000 images, or 200,000. Prints what a failing image was.
 */
#include "ledger_fixture.h"

#define BLOCKS 3
#define TXS 6
#define IMAGES_A_STEP 8192

struct image {
    struct disk *disk;
    uint64_t call, seed, acknowledged, begun;
};

struct scenario {
    uint64_t seed;
    bool follower;
    uint64_t checkpoint_log_bytes, retain_blocks;
    uint64_t images_a_call;
};

struct height {
    struct header header;
    uint8_t contents[32];
    uint8_t *sealed;
    size_t sealed_bytes;
};

static struct height reference[BLOCKS + 1];
static struct image images[IMAGES_A_STEP];
static size_t image_count;
static uint64_t acknowledged, begun, images_total, second_total;
static struct answer first_answer;

static void fail(const struct scenario *scenario, const struct image *image, const char *what)
{
    fprintf(stderr,
            "prog_ledger_crash: scenario %llu (%s, checkpoint %llu, retain %llu), call %llu, image seed %llu, "
            "acknowledged %llu, begun %llu: %s: %s\n",
            (unsigned long long)scenario->seed, scenario->follower ? "follower" : "leader",
            (unsigned long long)scenario->checkpoint_log_bytes, (unsigned long long)scenario->retain_blocks,
            (unsigned long long)image->call, (unsigned long long)image->seed, (unsigned long long)image->acknowledged,
            (unsigned long long)image->begun, what, eng_error());
    exit(1);
}

static uint64_t random_next(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    uint64_t z = *state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- the workload ---- */

static const char *const keys[] = {"a", "ab", "abc", "b", "ba", "c", "path/to/a", "path/to/b", "path/x", "z"};

static void make_transaction(struct draft *draft, uint64_t scenario, uint64_t number, uint64_t expires_ms)
{
    static char values[4][512];
    uint64_t random = scenario * 1000 + number;
    draft_begin(draft, number, expires_ms);
    for (int i = 0; i < 4; i++) {
        const char *key = keys[random_next(&random) % 10];
        switch (random_next(&random) % 5) {
        case 0:
            draft_add(draft, TX_UNSET, key);
            break;
        case 1:
            draft_amount(draft, "sum", (int)(random_next(&random) % 100));
            break;
        default: {
            size_t size = random_next(&random) % 300;
            memset(values[i], 'a' + (int)(number % 26), size);
            values[i][size] = '\0';
            draft_value(draft, TX_PUT, key, values[i]);
        }
        }
    }
    draft_end(draft);
}

static void fixture_prepare(struct fixture *fixture, const struct scenario *scenario)
{
    fixture_init(fixture, 1);
    fixture->options.segment_bytes = 16 << 10;
    fixture->options.leaf_bytes = 128;
    fixture->options.log_file_bytes = 8 << 10;
    fixture->options.log_ring_bytes = 64 << 10;
    fixture->options.checkpoint_log_bytes = scenario->checkpoint_log_bytes;
    fixture->options.retain_blocks = scenario->retain_blocks;
    fixture->options.role = scenario->follower ? LEDGER_FOLLOWER : LEDGER_LEADER;
}

static void count_import(void *context, const struct import_result *result)
{
    if (result->status != ENG_OK)
        abort();
    acknowledged = result->height;
}

static void make_block(struct fixture *fixture, const struct scenario *scenario, uint64_t height)
{
    struct draft drafts[TXS];
    struct answer answers[TXS] = {0};
    fixture->now_ms = FIXTURE_TIME_MS + height * 1000;
    begun = height;
    for (uint64_t i = 0; i < TXS; i++) {
        make_transaction(&drafts[i], scenario->seed, height * 100 + i,
                         height == 2 ? 0 : fixture->now_ms + FIXTURE_WINDOW_MS / 2);
        if (height == 2) {
            memset(drafts[i].tx.id, 0, TX_ID_BYTES);
            continue;
        }
        if (ledger_submit(fixture->ledger, drafts[i].bytes, drafts[i].size, answer_keep, &answers[i]) != TX_OK)
            abort();
        draft_release(&drafts[i]);
    }
    if (height == 2) {
        size_t size;
        uint8_t *bytes = fixture_block(height, 0, "imported", drafts, TXS, &size);
        if (ledger_import(fixture->ledger, bytes, size, true, 0, count_import, NULL) != ENG_OK)
            abort();
        free(bytes);
    }
    if (ledger_step(fixture->ledger) != ENG_OK || ledger_height(fixture->ledger, NULL) != height) {
        fprintf(stderr, "undisturbed: %s\n", eng_error());
        abort();
    }
    if (height == 1) {
        answer_release(&first_answer);
        first_answer = answers[0];
        answers[0].bytes = NULL;
    }
    for (int i = 0; i < TXS; i++)
        answer_release(&answers[i]);
    acknowledged = height;
}

static void apply_block(struct fixture *fixture, uint64_t height)
{
    struct height *of = &reference[height];
    begun = height;
    fixture->now_ms = FIXTURE_TIME_MS + height * 1000;
    if (ledger_apply(fixture->ledger, &of->header, of->sealed, of->sealed_bytes) != ENG_OK ||
        ledger_step(fixture->ledger) != ENG_OK) {
        fprintf(stderr, "undisturbed follower: %s\n", eng_error());
        abort();
    }
    acknowledged = ledger_durable(fixture->ledger);
    if (acknowledged != height)
        abort();
}

/* ---- what must be there ---- */

struct contents {
    crypto_generichash_state state;
};

static bool add_contents(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct contents *contents = context;
    uint64_t head[3] = {key_bytes, (uint64_t)value->tag, value->size};
    crypto_generichash_update(&contents->state, (const uint8_t *)head, sizeof(head));
    crypto_generichash_update(&contents->state, key, key_bytes);
    crypto_generichash_update(&contents->state, value->bytes, value->size);
    return true;
}

static bool read_contents(struct ledger *ledger, uint64_t height, uint8_t digest[32], struct eng_summary *summary)
{
    struct contents contents;
    struct eng_snapshot *snapshot;
    crypto_generichash_init(&contents.state, NULL, 0, 32);
    if (ledger_snapshot(ledger, height, &snapshot) != ENG_OK)
        return false;
    *summary = *eng_snapshot_summary(snapshot);
    bool good = eng_scan(snapshot, NULL, 0, NULL, 0, add_contents, &contents) == ENG_OK;
    eng_snapshot_close(&snapshot);
    crypto_generichash_final(&contents.state, digest, 32);
    return good;
}

static void check_state(struct ledger *ledger, const struct scenario *scenario, const struct image *image)
{
    uint64_t height = ledger_height(ledger, NULL);
    if (height < image->acknowledged)
        fail(scenario, image, "an acknowledged block is lost");
    if (height > image->begun)
        fail(scenario, image, "a block that was never begun");
    for (uint64_t h = 1; h <= height; h++) {
        struct header header;
        memset(&header, 0, sizeof(header));
        if (ledger_header(ledger, h, &header) != ENG_OK)
            fail(scenario, image, "a header cannot be read");
        if (memcmp(&header, &reference[h].header, sizeof(header)) != 0)
            fail(scenario, image, "another header");
    }
    uint8_t digest[32];
    struct eng_summary summary;
    if (!read_contents(ledger, height, digest, &summary))
        fail(scenario, image, "the state cannot be read");
    if (memcmp(digest, reference[height].contents, 32) != 0)
        fail(scenario, image, "another state");
    if (height && memcmp(&summary, &reference[height].header.state, sizeof(summary)) != 0)
        fail(scenario, image, "another root");
}

/* Life after the loss: the first receipt again, and a block more. */
static void check_life(struct fixture *fixture, const struct scenario *scenario, const struct image *image)
{
    struct draft draft;
    struct answer answer = {0};
    uint64_t height = ledger_height(fixture->ledger, NULL);
    fixture->now_ms = FIXTURE_TIME_MS + 10000;
    if (height) {
        make_transaction(&draft, scenario->seed, 100, FIXTURE_TIME_MS + 1000 + FIXTURE_WINDOW_MS / 2);
        if (ledger_submit(fixture->ledger, draft.bytes, draft.size, answer_keep, &answer) != TX_OK ||
            ledger_step(fixture->ledger) != ENG_OK || !answer.has_receipt || answer.size != first_answer.size ||
            memcmp(answer.bytes, first_answer.bytes, answer.size) != 0)
            fail(scenario, image, "another receipt than the first");
        answer_release(&answer);
        draft_release(&draft);
    }
    draft_begin(&draft, 5000, fixture->now_ms + 1000);
    draft_value(&draft, TX_PUT, "after", "the loss");
    if (fixture_run(fixture, &draft, &answer) != TX_OK || answer.receipt.height != height + 1)
        fail(scenario, image, "no block after the recovery");
    answer_release(&answer);
    ledger_close(&fixture->ledger, 1000);
    if (fixture_open(fixture) != ENG_OK || ledger_height(fixture->ledger, NULL) != height + 1)
        fail(scenario, image, "a clean restart after the recovery");
}

static struct disk *second_image;
static uint64_t second_call, second_seed;

static void second_loss(void *context, struct disk *disk, uint64_t n)
{
    if (n == second_call && disk_sim_crash(disk, second_seed, &second_image) != ENG_OK)
        abort();
}

static void check_image(const struct scenario *scenario, struct image *image)
{
    struct fixture fixture;
    bool again = images_total % 4 == 0;
    fixture_prepare(&fixture, scenario);
    fixture.disk = image->disk;
    if (again) {
        uint64_t random = images_total;
        second_call = disk_sim_calls(image->disk) + random_next(&random) % 12;
        second_seed = random_next(&random) % 64;
        disk_sim_watch(image->disk, second_loss, NULL);
    }
    if (fixture_open(&fixture) != ENG_OK)
        fail(scenario, image, "does not open");
    disk_sim_watch(image->disk, NULL, NULL);
    check_state(fixture.ledger, scenario, image);
    if (images_total % 8 == 1 && !scenario->follower)
        check_life(&fixture, scenario, image);
    fixture_release(&fixture);
    images_total++;
    if (second_image) {
        fixture_prepare(&fixture, scenario);
        fixture.disk = second_image;
        second_image = NULL;
        if (fixture_open(&fixture) != ENG_OK)
            fail(scenario, image, "does not open after a second loss");
        check_state(fixture.ledger, scenario, image);
        fixture_release(&fixture);
        second_total++;
    }
}

/* ---- one scenario ---- */

static void take_images(void *context, struct disk *disk, uint64_t n)
{
    const struct scenario *scenario = context;
    for (uint64_t i = 0; i < scenario->images_a_call && image_count < IMAGES_A_STEP; i++) {
        /* nothing of what was not synced, all of it, or some of it */
        struct image *image = &images[image_count++];
        *image = (struct image){.call = n, .acknowledged = acknowledged, .begun = begun};
        image->seed = i < 2 ? i : scenario->seed * 1000003 + n * 101 + i;
        if (disk_sim_crash(disk, image->seed, &image->disk) != ENG_OK)
            abort();
    }
}

static void check_images(struct fixture *fixture, const struct scenario *scenario)
{
    for (size_t i = 0; i < image_count; i++)
        check_image(scenario, &images[i]);
    image_count = 0;
}

static void open_empty(struct fixture *fixture, const struct scenario *scenario, bool watched)
{
    fixture_prepare(fixture, scenario);
    acknowledged = begun = 0;
    if (disk_sim_open(0, &fixture->disk) != ENG_OK)
        abort();
    if (watched)
        disk_sim_watch(fixture->disk, take_images, (void *)(uintptr_t)scenario);
    if (fixture_open(fixture) != ENG_OK) {
        fprintf(stderr, "undisturbed: %s\n", eng_error());
        abort();
    }
    check_images(fixture, scenario);
}

/* The undisturbed run. Returns the number of disk calls. */
static uint64_t write_down(struct scenario scenario)
{
    struct fixture fixture;
    struct eng_summary summary;
    scenario.follower = false;
    open_empty(&fixture, &scenario, false);
    if (!read_contents(fixture.ledger, 0, reference[0].contents, &summary))
        abort();
    for (uint64_t h = 1; h <= BLOCKS; h++) {
        struct height *of = &reference[h];
        size_t capacity = 0;
        make_block(&fixture, &scenario, h);
        free(of->sealed);
        of->sealed = NULL;
        memset(&of->header, 0, sizeof(of->header));
        if (!read_contents(fixture.ledger, h, of->contents, &summary) ||
            ledger_header(fixture.ledger, h, &of->header) != ENG_OK ||
            ledger_read_sealed(fixture.ledger, h, &of->sealed, &capacity, &of->sealed_bytes) != ENG_OK)
            abort();
    }
    ledger_close(&fixture.ledger, 1000);
    uint64_t calls = disk_sim_calls(fixture.disk);
    fixture_release(&fixture);
    return calls;
}

static void run(const struct scenario *scenario)
{
    struct fixture fixture;
    open_empty(&fixture, scenario, true);
    for (uint64_t h = 1; h <= BLOCKS; h++) {
        if (scenario->follower)
            apply_block(&fixture, h);
        else
            make_block(&fixture, scenario, h);
        check_images(&fixture, scenario);
    }
    ledger_close(&fixture.ledger, 1000);
    disk_sim_watch(fixture.disk, NULL, NULL);
    check_images(&fixture, scenario);
    fixture_release(&fixture);
}

int main(int argc, char **argv)
{
    uint64_t target = argc > 1 ? strcmp(argv[1], "--long") == 0 ? 200000 : strtoull(argv[1], NULL, 10) : 10000;
    static const uint64_t checkpoints[] = {1, 3000, 1 << 20};
    uint64_t calls = 0, scenarios = 0;
    for (uint64_t seed = 1; images_total < target; seed++, scenarios++) {
        struct scenario scenario = {
            .seed = seed,
            .checkpoint_log_bytes = checkpoints[seed % 3],
            .follower = seed % 4 == 3,
            .retain_blocks = seed % 2 ? 1 : 1000,
        };
        calls = write_down(scenario);
        scenario.images_a_call = target / (6 * calls) + 3;
        run(&scenario);
    }
    for (int h = 1; h <= BLOCKS; h++)
        free(reference[h].sealed);
    answer_release(&first_answer);
    printf("prog_ledger_crash: %llu images and %llu of a second loss, %llu scenarios of about %llu disk calls: all "
           "recovered\n",
           (unsigned long long)images_total, (unsigned long long)second_total, (unsigned long long)scenarios,
           (unsigned long long)calls);
    return 0;
}
