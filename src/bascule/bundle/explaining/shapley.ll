; Shapley values of trees for blocks of rows. `bundle.explaining.trees` says how, and fills in:
;
;   $V $B $I  a block of $LANES rows: doubles, bits, whole numbers
;   @q        a line with it stands for one line for each point of the quadrature; @n is the place of
;             the point in %scratch, @p the point before (nothing for the first), @last the last one
;   field     %a = field %node, 2        reads the i32 at a place as i64
;   all       %a = all %at, 2            reads the double at a place into all rows
;   either    %a = either %b, %at, 2, 3  the double at the one place or the other, by a bit of the row
;
; A tree is a list of nodes in preorder, the first its root. Of a node:
;   i32 x 6     its parent, its right child (0 for a leaf), the last node above of the same player
;               (0 for none), column, flags (1: reached where the test fails, 2: a missing value
;               passes the test), place in the sums
;   double x 2  threshold, value
;   double x 6  for each point: F0 F1 R0 R1 D0 D1

%Forest = type {
  i64,  ; columns of a row
  i64,  ; sums of a row
  ptr,  ; i64 per tree: its first node; and the end of the last
  ptr,  ; i32 x 6 per node
  ptr,  ; double x 2 per node
  ptr   ; double x 6 x points per node, from the first tree on
}

declare $V @llvm.fmuladd.v${LANES}f64($V, $V, $V)

; %scratch has room for the largest tree: of a node a mask of the rows, and doubles for each point.
define void @explain(ptr noalias readonly %forest, i64 %trees, ptr noalias readonly %x, i64 %blocks,
                     ptr noalias %scratch, ptr noalias %sums) {
entry:
  %columns = load i64, ptr %forest
  %places_at = getelementptr %Forest, ptr %forest, i64 0, i32 1
  %places = load i64, ptr %places_at
  %firsts_at = getelementptr %Forest, ptr %forest, i64 0, i32 2
  %firsts = load ptr, ptr %firsts_at
  %links_at = getelementptr %Forest, ptr %forest, i64 0, i32 3
  %links = load ptr, ptr %links_at
  %numbers_at = getelementptr %Forest, ptr %forest, i64 0, i32 4
  %numbers = load ptr, ptr %numbers_at
  %tables_at = getelementptr %Forest, ptr %forest, i64 0, i32 5
  %tables = load ptr, ptr %tables_at
  %origin = load i64, ptr %firsts
  store $I splat (i64 -1), ptr %scratch, align 8
  %root@q = getelementptr $V, ptr %scratch, i64 @n
  store $V splat (double 1.0), ptr %root@q, align 8
  br label %tree

tree:
  %t = phi i64 [0, %entry], [%t_next, %tree_end]
  %first_at = getelementptr i64, ptr %firsts, i64 %t
  %first = load i64, ptr %first_at
  %end_at = getelementptr i64, ptr %first_at, i64 1
  %end = load i64, ptr %end_at
  %count = sub i64 %end, %first
  %own_links = getelementptr [6 x i32], ptr %links, i64 %first
  %own_numbers = getelementptr [2 x double], ptr %numbers, i64 %first
  %place = sub i64 %first, %origin
  %own_tables = getelementptr $TABLE, ptr %tables, i64 %place
  br label %block

block:
  %b = phi i64 [0, %tree], [%b_next, %block_end]
  %x_place = mul i64 %b, %columns
  %own_x = getelementptr $V, ptr %x, i64 %x_place
  %sums_place = mul i64 %b, %places
  %own_sums = getelementptr $V, ptr %sums, i64 %sums_place
  br label %down

; From the root down: whether the row goes to a node as far as the player of its test decides, and
; the product of the factors of all players above.

down:
  %d = phi i64 [1, %block], [%d_next, %down_end]
  %d_link = getelementptr [6 x i32], ptr %own_links, i64 %d
  %d_parent = field %d_link, 0
  %d_right = field %d_link, 1
  %d_above = field %d_link, 2
  %d_column = field %d_link, 3
  %d_flags = field %d_link, 4
  %d_number = getelementptr [2 x double], ptr %own_numbers, i64 %d
  %d_table = getelementptr $TABLE, ptr %own_tables, i64 %d
  %d_own = getelementptr $NODE, ptr %scratch, i64 %d
  %d_from = getelementptr $NODE, ptr %scratch, i64 %d_parent
  %d_values_at = getelementptr $V, ptr %own_x, i64 %d_column
  %d_values = load $V, ptr %d_values_at, align 8
  %d_threshold = all %d_number, 0
  %d_at_most = fcmp ole $V %d_values, %d_threshold
  %d_or_missing = fcmp ule $V %d_values, %d_threshold
  %d_missing_bit = and i64 %d_flags, 2
  %d_missing = icmp ne i64 %d_missing_bit, 0
  %d_passes = select i1 %d_missing, $B %d_or_missing, $B %d_at_most
  %d_fail_bit = trunc i64 %d_flags to i1
  %d_fail_one = insertelement $B poison, i1 %d_fail_bit, i32 0
  %d_fail_all = shufflevector $B %d_fail_one, $B poison, <$LANES x i32> zeroinitializer
  %d_goes = xor $B %d_passes, %d_fail_all
  %d_from@q = getelementptr $V, ptr %d_from, i64 @n
  %d_h@q = load $V, ptr %d_from@q, align 8
  %d_is_first = icmp eq i64 %d_above, 0
  br i1 %d_is_first, label %d_factor, label %d_again

d_again:
  %g_own = getelementptr $NODE, ptr %scratch, i64 %d_above
  %g_mask = load $I, ptr %g_own, align 8
  %g_went = icmp slt $I %g_mask, zeroinitializer
  %g_goes = and $B %d_goes, %g_went
  %g_table = getelementptr $TABLE, ptr %own_tables, i64 %d_above
  %g_r@q = either %g_went, %g_table, @R1, @R0
  %g_h@q = fmul $V %d_h@q, %g_r@q
  br label %d_factor

d_factor:
  %f_goes = phi $B [%d_goes, %down], [%g_goes, %d_again]
  %f_h@q = phi $V [%d_h@q, %down], [%g_h@q, %d_again]
  %f_mask = sext $B %f_goes to $I
  store $I %f_mask, ptr %d_own, align 8
  %f_f@q = either %f_goes, %d_table, @F1, @F0
  %f_product@q = fmul $V %f_h@q, %f_f@q
  %f_at@q = getelementptr $V, ptr %d_own, i64 @n
  %d_is_leaf = icmp eq i64 %d_right, 0
  br i1 %d_is_leaf, label %leaf, label %inner

leaf:
  %l_value = all %d_number, 1
  %l_sum@q = fmul $V %f_product@q, %l_value
  store $V %l_sum@q, ptr %f_at@q, align 8
  br label %down_end

inner:
  store $V %f_product@q, ptr %f_at@q, align 8
  br label %down_end

down_end:
  %d_next = add i64 %d, 1
  %d_done = icmp eq i64 %d_next, %count
  br i1 %d_done, label %up, label %down

; From the leaves up: the sum of what is below a node, and what its player adds by it.

up:
  %u = phi i64 [%count, %down_end], [%n, %up_end]
  %n = sub i64 %u, 1
  %u_link = getelementptr [6 x i32], ptr %own_links, i64 %n
  %u_right = field %u_link, 1
  %u_above = field %u_link, 2
  %u_place = field %u_link, 5
  %u_own = getelementptr $NODE, ptr %scratch, i64 %n
  %u_at@q = getelementptr $V, ptr %u_own, i64 @n
  %u_is_leaf = icmp eq i64 %u_right, 0
  br i1 %u_is_leaf, label %u_load, label %u_add

u_load:
  %v_s@q = load $V, ptr %u_at@q, align 8
  br label %u_sum

u_add:
  %w_left = getelementptr $NODE, ptr %scratch, i64 %u
  %w_right = getelementptr $NODE, ptr %scratch, i64 %u_right
  %w_left@q = getelementptr $V, ptr %w_left, i64 @n
  %w_l@q = load $V, ptr %w_left@q, align 8
  %w_right@q = getelementptr $V, ptr %w_right, i64 @n
  %w_r@q = load $V, ptr %w_right@q, align 8
  %w_s@q = fadd $V %w_l@q, %w_r@q
  store $V %w_s@q, ptr %u_at@q, align 8
  br label %u_sum

u_sum:
  %s_s@q = phi $V [%v_s@q, %u_load], [%w_s@q, %u_add]
  %s_mask = load $I, ptr %u_own, align 8
  %s_goes = icmp slt $I %s_mask, zeroinitializer
  %s_table = getelementptr $TABLE, ptr %own_tables, i64 %n
  %s_d@q = either %s_goes, %s_table, @D1, @D0
  %s_place = getelementptr $V, ptr %own_sums, i64 %u_place
  %s_c_ = load $V, ptr %s_place, align 8
  %s_c@q = call $V @llvm.fmuladd.v${LANES}f64($V %s_s@q, $V %s_d@q, $V %s_c@p)
  %s_is_first = icmp eq i64 %u_above, 0
  br i1 %s_is_first, label %up_end, label %u_again

; What is below belongs to this node, and not to the one above of the same player.

u_again:
  %y_own = getelementptr $NODE, ptr %scratch, i64 %u_above
  %y_mask = load $I, ptr %y_own, align 8
  %y_went = icmp slt $I %y_mask, zeroinitializer
  %y_table = getelementptr $TABLE, ptr %own_tables, i64 %u_above
  %y_d@q = either %y_went, %y_table, @D1, @D0
  %y_n@q = fneg $V %y_d@q
  %y_c_ = fadd $V %s_c@last, zeroinitializer
  %y_c@q = call $V @llvm.fmuladd.v${LANES}f64($V %s_s@q, $V %y_n@q, $V %y_c@p)
  br label %up_end

up_end:
  %e_c = phi $V [%s_c@last, %u_sum], [%y_c@last, %u_again]
  store $V %e_c, ptr %s_place, align 8
  %up_done = icmp eq i64 %n, 1
  br i1 %up_done, label %block_end, label %up

block_end:
  %b_next = add i64 %b, 1
  %blocks_done = icmp eq i64 %b_next, %blocks
  br i1 %blocks_done, label %tree_end, label %block

tree_end:
  %t_next = add i64 %t, 1
  %trees_done = icmp eq i64 %t_next, %trees
  br i1 %trees_done, label %done, label %tree

done:
  ret void
}
