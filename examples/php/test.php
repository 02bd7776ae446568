<?php

declare(strict_types=1);

// Against a real PostgreSQL, Redis and daemon: scripts/examples.sh starts them and runs this.

require __DIR__ . '/Cachetag.php';

const PRODUCT = <<<'SQL'
    SELECT (SELECT json_build_object('name', name, 'price', price) FROM products WHERE id = :id),
           to_json(ARRAY[cachetag.tag('product', :id::int)])
    SQL;
const CATEGORY = <<<'SQL'
    SELECT json_agg(name ORDER BY id), to_json(cachetag.tag_agg(cachetag.tag('product', id)) || cachetag.tag('category', :id::int))
      FROM products WHERE category_id = :id
    SQL;

function connect(): PDO
{
    ['host' => $host, 'port' => $port, 'user' => $user, 'path' => $path] = parse_url(getenv('POSTGRES_URL'));

    return new PDO("pgsql:host=$host;port=$port;user=$user;dbname=" . substr($path, 1), options: [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
}

function redis(): Redis
{
    $redis = new Redis();
    $redis->connect(parse_url(getenv('REDIS_URL'), PHP_URL_HOST), parse_url(getenv('REDIS_URL'), PHP_URL_PORT));

    return $redis;
}

function same(mixed $expected, mixed $actual, string $what = ''): void
{
    // Whole numbers of JSON may come as int or float.
    $numbers = is_numeric($expected) && is_numeric($actual);
    if ($numbers || is_array($expected) ? $expected != $actual : $expected !== $actual) {
        throw new Exception(trim("$what: expected " . json_encode($expected) . ', got ' . json_encode($actual), ': '));
    }
}

function throws(string $class, callable $call, string $message = ''): void
{
    try {
        $call();
    } catch (Throwable $error) {
        same($class, $error::class, $error->getMessage());
        same(true, str_starts_with($error->getMessage(), $message), $error->getMessage());

        return;
    }
    throw new Exception("expected $class");
}

function eventually(string $what, callable $condition, float $seconds = 20): void
{
    for ($end = microtime(true) + $seconds; !$condition(); usleep(5000)) {
        if (microtime(true) > $end) {
            throw new Exception("not within $seconds s: $what");
        }
    }
}

/** What each test has: keys of its own, a session that reads and one that writes. */
final class Shop
{
    public Redis $redis;
    public PDO $db;
    public PDO $writer;
    public Cachetag $cache;
    public string $run;
    public int $loads = 0;

    public function __construct()
    {
        [$this->redis, $this->db, $this->writer, $this->run] = [redis(), connect(), connect(), bin2hex(random_bytes(4))];
        $this->cache = new Cachetag($this->redis);
    }

    public function read(string $query, int $id): array
    {
        $this->loads++;
        $statement = $this->db->prepare($query);
        $statement->execute(['id' => $id]);

        return Cachetag::row($statement);
    }

    public function page(int $id, string $query = PRODUCT, ?Cachetag $cache = null, mixed ...$options): mixed
    {
        return ($cache ?? $this->cache)->getOrSet("$this->run:$id", fn () => $this->read($query, $id), ...$options);
    }

    public function untilCached(int $id, mixed ...$options): void
    {
        eventually('a hit', function () use ($id, $options) { // right after a bump a fill may be refused
            $before = $this->loads;
            $this->page($id, ...$options);

            return $this->loads === $before;
        });
    }

    public function peek(int $id): string // takes no lease
    {
        return $this->redis->rawCommand('FCALL_RO', 'cachetag_peek', 1, "{ct}:e:$this->run:$id")[0];
    }

    public function price(int $id, int $price): void
    {
        $this->writer->exec("UPDATE products SET price = $price WHERE id = $id");
    }
}

$tests = [
    'the second reader hits' => function (Shop $shop) {
        $shop->untilCached(51);
        $before = $shop->loads;
        same(['name' => 'Product 51', 'price' => 61], $shop->page(51));
        same($before, $shop->loads);
    },

    'a change of the row changes the page' => function (Shop $shop) {
        for ($price = 100; $price < 120; $price++) {
            $shop->price(52, $price);
            eventually('the new price', fn () => $shop->page(52)['price'] == $price);
            for ($again = 0; $again < 5; $again++) {
                same($price, $shop->page(52)['price'], 'an old value came back');
            }
        }
    },

    'no reader sees what the cache has passed' => function (Shop $shop) {
        for ($price = 1; $price <= 40; $price++) {
            $shop->untilCached(53);
            $shop->price(53, $price);
            same(true, $shop->writer->query("SELECT cachetag.wait_for(timeout => '20s')")->fetchColumn());
            same($price, $shop->page(53)['price']);
        }
    },

    'a list falls when a row joins it' => function (Shop $shop) {
        $shop->untilCached(8, query: CATEGORY);
        $before = $shop->page(8, query: CATEGORY);
        $shop->writer->exec('UPDATE products SET category_id = 8 WHERE id = 44');
        eventually('the new row', fn () => in_array('Product 44', $shop->page(8, query: CATEGORY)));
        $shop->writer->exec('UPDATE products SET category_id = 5 WHERE id = 44');
        eventually('the row to leave', fn () => $shop->page(8, query: CATEGORY) == $before);
    },

    'absent is cached until the row comes' => function (Shop $shop) {
        $shop->untilCached(903);
        same(null, $shop->page(903));
        $answer = $shop->cache->get("$shop->run:903");
        same(['hit', null, true], [$answer['state'], $answer['payload'], $answer['age'] >= 0]);
        $shop->writer->exec("INSERT INTO products VALUES (903, 1, 'New', 1)");
        eventually('the new row', fn () => ($shop->page(903)['name'] ?? '') === 'New');
        $shop->writer->exec('DELETE FROM products WHERE id = 903');
        eventually('the row to go', fn () => $shop->page(903) === null);
    },

    'errors are not stored and give the lease back' => function (Shop $shop) {
        throws(LogicException::class, fn () => $shop->cache->getOrSet("$shop->run:1", fn () => throw new LogicException('no')), 'no');
        same('miss', $shop->cache->get("$shop->run:1")['state']);
    },

    'read your writes' => function (Shop $shop) {
        for ($price = 300; $price < 330; $price++) {
            $shop->untilCached(54);
            $shop->price(54, $price);
            same($price, $shop->page(54, atLeast: Cachetag::position($shop->writer))['price']);
        }
        $shop->untilCached(54, atLeast: Cachetag::position($shop->writer));
        $before = $shop->loads;
        $shop->page(54, atLeast: 'FFFFFFFF/0'); // a commit that the cache has not seen
        same($before + 1, $shop->loads);
    },

    'stale while revalidate: all are served, one refreshes' => function (Shop $shop) {
        $shop->untilCached(55);
        $old = $shop->page(55);
        $shop->writer->exec("SELECT cachetag.invalidate_soft('product:55')");
        eventually('stale', fn () => $shop->peek(55) === 'stale');
        $before = $shop->loads;
        for ($reader = 0; $reader < 3; $reader++) {
            same($old, $shop->page(55));
        }
        same($before, $shop->loads);
        same(1, $shop->cache->refresh());
        same($before + 1, $shop->loads);
        eventually('a fresh entry', fn () => $shop->page(55) && $shop->cache->refresh() === 0 && $shop->peek(55) === 'hit');
    },

    'past its fresh time an entry is served and refreshed' => function (Shop $shop) {
        $shop->untilCached(56, fresh: 0.3);
        eventually('stale', fn () => $shop->peek(56) === 'stale');
        $before = $shop->loads;
        same('Product 56', $shop->page(56, fresh: 60)['name']);
        same([$before, 1], [$shop->loads, $shop->cache->refresh()]);
        same('hit', $shop->peek(56));
    },

    'a bypass reads the database and stores nothing' => function (Shop $shop) {
        $cache = new Cachetag($shop->redis, 'nobody'); // no daemon feeds it
        foreach ([1, 2] as $loads) {
            same('Product 10', $shop->page(10, cache: $cache)['name']);
            same($loads, $shop->loads);
        }
        same([], $shop->redis->keys('{nobody}:*'));
    },

    'a Redis that is down is a bypass' => function (Shop $shop) {
        $cache = new Cachetag(new Redis());
        same('Product 10', $shop->page(10, cache: $cache)['name']);
    },

    'a mistake of the caller throws' => function (Shop $shop) {
        $load = fn () => [1, ['not a tag']];
        throws(InvalidArgumentException::class, fn () => $shop->cache->getOrSet("$shop->run:x", $load), 'CACHETAG TAGS');
    },

    "what was read in a writer's transaction is not stored" => function (Shop $shop) {
        $covers = fn (string $token) => $shop->db->query("SELECT cachetag.covers('$token')")->fetchColumn();
        $shop->db->beginTransaction();
        $shop->db->exec('UPDATE products SET price = 0 WHERE id = 57');
        same(0, $shop->page(57, covers: $covers)['price']);
        $shop->db->rollBack();
        same(67, $shop->page(57, covers: $covers)['price']);
    },

    'of three processes one loads' => function (Shop $shop) {
        $key = "$shop->run:race";
        $racers = [];
        for ($racer = 0; $racer < 3; $racer++) {
            $racers[] = popen(escapeshellarg(PHP_BINARY) . ' ' . escapeshellarg(__FILE__) . " race $key", 'r');
        }
        foreach ($racers as $racer) {
            same('{"name":"Product 58","price":68.0}', stream_get_contents($racer));
            pclose($racer);
        }
        same('1', $shop->redis->get("$key:loads"));
    },

    'tags' => function () {
        $vectors = json_decode(file_get_contents(__DIR__ . '/../../core/vectors/tags.json'), true, flags: JSON_THROW_ON_ERROR);
        foreach ($vectors['built'] as $vector) {
            same($vector['tag'], Cachetag::tag($vector['family'], ...$vector['parts']));
            same($vector['whole_family'], Cachetag::wholeFamily($vector['family']));
            same(true, Cachetag::isTag($vector['tag']), $vector['tag']);
        }
        foreach ($vectors['not_built'] as $vector) {
            throws(DomainException::class, fn () => Cachetag::tag($vector['family'], ...$vector['parts']));
        }
        foreach ($vectors['accepted'] as $vector) {
            same(true, Cachetag::isTag($vector['tag']), $vector['tag']);
        }
        foreach ($vectors['rejected'] as $vector) {
            same(false, Cachetag::isTag($vector['text']), $vector['text']);
        }
        foreach ($vectors['rejected_bytes'] as $vector) {
            same(false, Cachetag::isTag(hex2bin($vector['hex'])), $vector['hex']);
        }
        foreach ($vectors['parts'] as $vector) {
            same($vector['encoded'], Cachetag::encode(hex2bin($vector['raw_hex'])));
        }
        throws(TypeError::class, fn () => Cachetag::encode(true));
    },

    'tags: the database agrees' => function (Shop $shop) {
        $statement = $shop->db->prepare("SELECT cachetag.tag('f', :part::text)");
        foreach (['42', 'a:b c', '50%', '{x}*', 'é東'] as $part) {
            $statement->execute(['part' => $part]);
            same(Cachetag::tag('f', $part), $statement->fetchColumn());
        }
    },
];

if (($argv[1] ?? '') === 'race') {
    // One of the racers that a test above starts.
    [$shop, $key] = [new Shop(), $argv[2]];
    $shop->redis->incr("$key:ready");
    eventually('the other racers', fn () => $shop->redis->get("$key:ready") === '3');
    $load = function () use ($shop, $key) {
        $shop->redis->incr("$key:loads");
        usleep(200000);

        return $shop->read(PRODUCT, 58);
    };
    echo json_encode($shop->cache->getOrSet($key, $load, patience: 20), JSON_PRESERVE_ZERO_FRACTION);
    exit;
}

$failed = 0;
foreach ($tests as $name => $test) {
    try {
        $test(new Shop());
    } catch (Throwable $error) {
        $failed++;
        echo "FAILED: $name: {$error->getMessage()} ({$error->getFile()}:{$error->getLine()})\n";
    }
}
printf("%d passed, %d failed\n", count($tests) - $failed, $failed);
exit($failed > 0 ? 1 : 0);
