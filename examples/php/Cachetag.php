<?php

declare(strict_types=1);

/**
 * A cache in front of PostgreSQL that is never wrong for long: cachetag with the extension redis.
 *
 *     $cache = new Cachetag($redis);
 *     $page = $cache->getOrSet("page:product:$id", function () use ($query, $id) { $query->execute([$id]); return Cachetag::row($query); });
 *
 * The loader returns [value, tags]; a value is JSON, or null: there is nothing, which is cached too. The tags come from the same query:
 *
 *     SELECT (SELECT json_build_object('name', name) FROM products WHERE id = :id), to_json(ARRAY[cachetag.tag('product', :id::int)])
 */
final class Cachetag
{
    private string $prefix;
    private array $later = [];

    public function __construct(private Redis $redis, string $namespace = 'ct')
    {
        $this->prefix = '{' . $namespace . '}:e:';
    }

    /** [value, tags] of a statement whose two columns are JSON. */
    public static function row(PDOStatement $statement): array
    {
        [$value, $tags] = $statement->fetch(PDO::FETCH_NUM);

        return [$value === null ? null : self::decode($value), self::decode($tags)];
    }

    /** After a COMMIT: what to hand to getOrSet as atLeast, so that a hit covers that commit. */
    public static function position(PDO $db): string
    {
        return $db->query('SELECT cachetag.position()')->fetchColumn();
    }

    /**
     * The value of a key. Times are seconds. `covers` asks the session that loads, SELECT cachetag.covers(token): give it where the
     * loader may run in a transaction that has written or is REPEATABLE READ, or on a standby.
     */
    public function getOrSet(
        string $key,
        callable $load,
        float $ttl = 600,
        float $absentTtl = 30,
        ?float $fresh = null,
        ?float $maxLag = null,
        ?string $atLeast = null,
        ?callable $covers = null,
        float $patience = 2,
    ): mixed {
        $fill = function (array $answer) use ($key, $load, $ttl, $absentTtl, $fresh, $covers): mixed {
            ['token' => $token, 'lease' => $lease] = $answer;
            try {
                if ($token !== '' && $covers !== null && !$covers($token)) {
                    $token = '';
                }
                $began = microtime(true);
                [$value, $tags] = $load(); // after the token was given: that is what makes the fill sound
                $cost = max(0, microtime(true) - $began);
                $this->put($key, $value, $token, $tags, $value === null ? $absentTtl : $ttl, $fresh, $cost, $lease);

                return $value;
            } catch (Throwable $error) {
                $this->put($key, null, '', [], lease: $lease); // an error is never stored; the next caller need not wait
                throw $error;
            }
        };

        $deadline = microtime(true) + $patience;
        $answer = $this->get($key, $maxLag, $atLeast);
        for ($pause = 5000; $answer['state'] === 'wait' && microtime(true) < $deadline; $pause = min($pause * 2, 100000)) {
            usleep(random_int(intdiv($pause, 2), $pause));
            $answer = $this->get($key, $maxLag, $atLeast);
        }
        if (!in_array($answer['state'], ['hit', 'stale', 'early'], true)) {
            return $fill($answer);
        }
        if ($answer['lease'] !== '') {
            $this->later[] = fn () => $fill($answer);
        }

        return $answer['payload'] === null ? null : self::decode($answer['payload']);
    }

    /** Recomputes what was served stale. Call it when the response is out: after fastcgi_finish_request(), or on kernel.terminate. */
    public function refresh(): int
    {
        for ($done = 0; $fill = array_shift($this->later); $done++) {
            $fill();
        }

        return $done;
    }

    /** @return array{state: string, payload: ?string, token: string, lease: string, age: int} */
    public function get(string $key, ?float $maxLag = null, ?string $atLeast = null): array
    {
        $options = $maxLag === null ? [] : ['MAXLAG', (int) round($maxLag * 1000)];
        if ($atLeast !== null) {
            array_push($options, 'ATLEAST', $atLeast);
        }
        $reply = $this->call('cachetag_get', $key, ...$options) ?? ['bypass', null, '', '', -1];
        [$state, $payload, $token, $lease, $age] = $reply;

        return ['state' => $state, 'payload' => $payload === false ? null : $payload, 'token' => $token, 'lease' => $lease, 'age' => $age];
    }

    /** Whether it was stored. Without a token it never is, but the lease is given back. */
    public function put(string $key, mixed $value, string $token, array $tags, float $ttl = 600, ?float $fresh = null, float $cost = 0, string $lease = ''): bool
    {
        if ($token === '' && $lease === '') {
            return false;
        }
        $payload = $value === null ? '' : json_encode($value, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION);
        $args = [$payload, $token, max(1, (int) round($ttl * 1000)), 'TAGS', count($tags), ...$tags, 'COST', (int) round($cost * 1000)];
        if ($value === null) {
            $args[] = 'ABSENT';
        }
        if ($fresh !== null) {
            array_push($args, 'FRESH', max(1, (int) round($fresh * 1000)));
        }
        if ($lease !== '') {
            array_push($args, 'LEASE', $lease);
        }

        return ($this->call('cachetag_put', $key, ...$args) ?? ['refused'])[0] === 'stored';
    }

    public function drop(string $key): bool
    {
        return $this->call('cachetag_drop', $key) === 1;
    }

    /** The reply; null if Redis cannot serve now (down, full, not loaded yet). A mistake of the caller throws. */
    private function call(string $function, string $key, string|int ...$args): mixed
    {
        try {
            $this->redis->clearLastError();
            $reply = $this->redis->rawCommand('FCALL', $function, 1, $this->prefix . $key, ...$args);
            $error = $this->redis->getLastError();
        } catch (RedisException $exception) {
            $error = $exception->getMessage();
        }
        if ($error !== null && str_starts_with($error, 'CACHETAG')) {
            throw new InvalidArgumentException($error);
        }

        return $error === null ? $reply : null;
    }

    private static function decode(string $json): mixed
    {
        return json_decode($json, true, flags: JSON_THROW_ON_ERROR);
    }

    private const CHAR = '(?:[^\x00-\x20\x7f:%*{}]|%(?:[01][0-9A-F]|20|25|2A|3A|7B|7D|7F))';

    /** A family or a part of a tag. Text and integers only: what else a column holds, let cachetag.tag() render in the query. */
    public static function encode(string|int $part): string
    {
        return preg_replace_callback('/[\x00-\x20\x7f:%*{}]/', fn (array $byte) => sprintf('%%%02X', ord($byte[0])), (string) $part);
    }

    /** The tag family:part:...; a tag of a row is better taken from the query, by cachetag.tag(). */
    public static function tag(string $family, string|int ...$parts): string
    {
        $text = implode(':', array_map(self::encode(...), [$family, ...$parts]));
        if (!self::isTag($text)) {
            throw new DomainException('no tag: "' . substr($text, 0, 80) . '" has no family, is longer than 512 bytes, or is not UTF-8');
        }

        return $text;
    }

    public static function wholeFamily(string $family): string
    {
        return self::tag($family) . ':*';
    }

    /** Is it a canonical tag? */
    public static function isTag(string $text): bool
    {
        $char = self::CHAR;

        // The modifier u refuses what is not UTF-8. <family>:* must be a tag too.
        return preg_match("/\A(?:\*|({$char}++)(?::\*|(?::{$char}*+)*+))\z/u", $text, $match) === 1
            && strlen($text) <= 512 && strlen($match[1] ?? '') <= 510;
    }
}
